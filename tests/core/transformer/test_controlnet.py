"""What a ControlNet must do whatever its weights are, and which files are one."""

import dataclasses

import numpy as np
import pytest
import tiny
import torch
from e2e.tiny_files import nvlabs, original
from PIL import Image
from safetensors.torch import save_file

from sana_core.checkpoint import key_maps
from sana_core.checkpoint.load import load_controlnet, load_transformer
from sana_core.errors import CheckpointError, InputError
from sana_core.kernels.choice import PLAIN
from sana_core.kit import Kit
from sana_core.pictures.control import control_picture
from sana_core.transformer.block import Stream, add
from sana_core.transformer.controlnet import ORDERS, ControlBranch, SanaControlNet

GENERATOR = torch.Generator().manual_seed(1)
LATENT, CONTROL = torch.randn(2, 32, 4, 6, generator=GENERATOR), torch.randn(1, 32, 4, 6, generator=GENERATOR)
CONTEXT, TIME = torch.randn(2, 7, 96, generator=GENERATOR), torch.tensor([999.0, 250.5])


def controlled(base, *branches, latent=LATENT):
    return base(latent, TIME[: len(latent)], CONTEXT[: len(latent)], control=branches)


def summed(stream):
    """The tokens behind a block."""
    return add(PLAIN, stream)


def distance(a, b):
    return (a - b).abs().max()


@pytest.fixture(scope="module")
def base():
    return tiny.transformer(depth=3)


@pytest.mark.parametrize("order", ORDERS)
def test_zero_weights_and_zero_scale_change_nothing(base, order):
    plain = base(LATENT, TIME, CONTEXT)
    network = tiny.controlnet(order=order)
    assert distance(controlled(base, ControlBranch(network, CONTROL)), plain) > 0.1
    assert torch.equal(controlled(base, ControlBranch(network, CONTROL, 0.0)), plain)
    for layer in network.controlnet_blocks:  # as at the start of a training
        layer.weight.zero_(), layer.bias.zero_()
    assert torch.equal(controlled(base, ControlBranch(network, CONTROL)), plain)


@pytest.mark.parametrize("order, index", [("upstream", 0), ("diffusers", 1)])
def test_where_the_first_residual_is_added(base, order, index):
    """A ControlNet that adds a constant does what the constant added to that block's output does."""
    network, constant = tiny.controlnet(order=order), torch.linspace(-1, 1, 224)
    network.controlnet_blocks[0].weight.zero_(), network.controlnet_blocks[0].bias.copy_(constant)
    block = base.transformer_blocks[index]
    hook = block.register_forward_hook(lambda module, inputs, output: Stream(summed(output) + constant * 0.5))
    expected = base(LATENT, TIME, CONTEXT)
    hook.remove()
    torch.testing.assert_close(controlled(base, ControlBranch(network, CONTROL, 0.5)), expected)


def test_upstream_begins_behind_the_first_block(base):
    """With before_proj at zero and the weights of base block 1 it computes that block on block 0's output."""
    network, seen = tiny.controlnet(embedders=False), {}
    network.input_block.weight.zero_(), network.input_block.bias.zero_()
    network.transformer_blocks[0].load_state_dict(base.transformer_blocks[1].state_dict())
    hooks = [base.transformer_blocks[1].register_forward_hook(lambda *given: seen.update(base=summed(given[-1]))),
             network.transformer_blocks[0].register_forward_hook(
                 lambda module, inputs, output: seen.update(control=summed(output))
             )]  # fmt: skip
    network.controlnet_blocks[0].weight.zero_(), network.controlnet_blocks[0].bias.zero_()
    controlled(base, ControlBranch(network, CONTROL))
    for hook in hooks:
        hook.remove()
    torch.testing.assert_close(seen["control"], seen["base"])


def test_diffusers_order_reads_its_own_embedders(base):
    own, borrowed = tiny.controlnet(order="diffusers"), tiny.controlnet(order="diffusers", embedders=False)
    borrowed.load_state_dict(own.state_dict(), strict=False)
    apart = distance(controlled(base, ControlBranch(own, CONTROL)), controlled(base, ControlBranch(borrowed, CONTROL)))
    shared = {
        key: tensor
        for key, tensor in base.state_dict().items()
        if key.startswith(("patch_embed", "time_embed", "caption_"))
    }
    own.load_state_dict(shared, strict=False)
    torch.testing.assert_close(
        controlled(base, ControlBranch(own, CONTROL)), controlled(base, ControlBranch(borrowed, CONTROL))
    )
    assert apart > 0.1
    prepared = base(LATENT, TIME, base.caption(CONTEXT, remember=True), control=[ControlBranch(own, CONTROL)])
    assert torch.equal(prepared, controlled(base, ControlBranch(own, CONTROL)))


def test_sprint_can_be_controlled():
    sprint = tiny.transformer(qk_norm=True, guidance_embed=True)
    guidance = torch.full((2,), 4.5)
    plain = sprint(LATENT, TIME, CONTEXT, guidance=guidance)
    for order in ORDERS:
        branch = ControlBranch(tiny.controlnet(order=order), CONTROL)
        assert distance(sprint(LATENT, TIME, CONTEXT, guidance=guidance, control=[branch]), plain) > 0.1


def test_several_add_up(base):
    """Residuals that do not depend on one another: two ControlNets in upstream's order are one whose residual is the
    sum.
    """
    first, second = tiny.controlnet(seed=1), tiny.controlnet(seed=2)
    block = base.transformer_blocks[0]
    plain, residuals = {}, []
    hook = block.register_forward_hook(lambda module, inputs, output: plain.update(x=summed(output)))
    for network in (first, second):
        catch = network.controlnet_blocks[0].register_forward_hook(
            lambda module, inputs, output: residuals.append(output)
        )
        controlled(base, ControlBranch(network, CONTROL))
        catch.remove()
    hook.remove()
    hook = block.register_forward_hook(
        lambda _, inputs, output: Stream(summed(output) + residuals[0] * 0.7 + residuals[1])
    )
    expected = base(LATENT, TIME, CONTEXT)
    hook.remove()
    torch.testing.assert_close(
        controlled(base, ControlBranch(first, CONTROL, 0.7), ControlBranch(second, CONTROL)), expected
    )
    mixed = [ControlBranch(first, CONTROL), ControlBranch(tiny.controlnet(seed=2, order="diffusers"), CONTROL)]
    torch.testing.assert_close(controlled(base, *mixed), controlled(base, *reversed(mixed)))


def test_control_latents_of_a_batch(base):
    """One serves all, and as many as pictures are repeated for both halves of a guided batch."""
    network, two = tiny.controlnet(), torch.cat([CONTROL, -CONTROL])
    torch.testing.assert_close(
        controlled(base, ControlBranch(network, CONTROL)),
        controlled(base, ControlBranch(network, torch.cat([CONTROL] * 2))),
    )
    alone = [
        base(LATENT[:1], TIME[:1], CONTEXT[:1], control=[ControlBranch(network, two[i : i + 1])]) for i in range(2)
    ]
    args = torch.cat([LATENT[:1]] * 4), torch.cat([TIME[:1]] * 4), torch.cat([CONTEXT[:1]] * 4)
    torch.testing.assert_close(
        base(*args, control=[ControlBranch(network, two)]), torch.cat(alone * 2), rtol=1e-4, atol=1e-5
    )


def test_wrong_pairings(base):
    with pytest.raises(InputError, match=r"models 288 wide, the model is 224 wide \(0\.6B models are 1152"):
        controlled(base, ControlBranch(tiny.controlnet(hidden_size=288), CONTROL))
    with pytest.raises(
        InputError, match="ControlNet of 3 blocks needs a model of more blocks than that, this one has 3"
    ):
        controlled(base, ControlBranch(tiny.controlnet(depth=3), CONTROL))
    for wrong in (CONTROL[..., :5], CONTROL[:, :16], torch.cat([CONTROL] * 3), CONTROL[0]):
        with pytest.raises(InputError, match="control latent of shape"):
            controlled(base, ControlBranch(tiny.controlnet(), wrong))
    with pytest.raises(InputError, match='order="nvlabs", expected one of upstream, diffusers'):
        tiny.controlnet(order="nvlabs")


def test_a_network_as_deep_as_fits(base):
    for order in ORDERS:
        network = tiny.controlnet(depth=2, order=order)
        shallow = dataclasses.replace(network.config, depth=1)
        one = SanaControlNet(shallow, embedders=True, order=order).eval().requires_grad_(False)
        one.load_state_dict({key: tensor for key, tensor in network.state_dict().items() if "blocks.1." not in key})
        assert (
            distance(controlled(base, ControlBranch(network, CONTROL)), controlled(base, ControlBranch(one, CONTROL)))
            > 0.01
        )


@pytest.mark.parametrize("hidden_size, parameters", [(2240, 631_576_960), (1152, 168_765_696)])
def test_published_sizes(hidden_size, parameters):
    """Seven blocks for the 1.6B and the 0.6B models, with diffusers' embedders."""
    config = tiny.transformer_config(hidden_size, depth=7, caption_channels=2304)
    network = SanaControlNet(config, Kit(device="meta"), embedders=True)
    assert (sum(tensor.numel() for tensor in network.parameters()), len(network.state_dict())) == (parameters, 162)


# Files


@pytest.fixture(scope="module")
def layouts(tmp_path_factory):
    """The same blocks in every layout; with embedders of its own in diffusers'."""
    folder, network = tmp_path_factory.mktemp("controlnet"), tiny.controlnet(depth=2)
    blocks = {
        key: tensor for key, tensor in network.state_dict().items() if not key.startswith(("patch", "time", "caption"))
    }
    nvidia = original(blocks, key_maps.CONTROLNET_NVLABS)
    torch.save(
        {"state_dict": {**original(tiny.transformer(depth=3).state_dict(), nvlabs(), grid=32), **nvidia}},
        folder / "whole.pth",
    )
    torch.save(nvidia, folder / "alone.pth")
    save_file({f"module.{key}": tensor for key, tensor in nvidia.items()}, folder / "prefixed.safetensors")
    save_file(network.state_dict(), folder / "diffusers.safetensors")
    return folder, network


@pytest.mark.parametrize("name, embedders", [
    ("whole.pth", False), ("alone.pth", False), ("prefixed.safetensors", False), ("diffusers.safetensors", True),
])  # fmt: skip
def test_layouts(layouts, name, embedders):
    folder, network = layouts
    loaded = load_controlnet(folder / name, order="diffusers")
    assert (loaded.order, loaded.config.depth, loaded.patch_embed is not None) == ("diffusers", 2, embedders)
    tensors = loaded.state_dict()
    assert all(torch.equal(tensor, network.state_dict()[key]) for key, tensor in tensors.items())
    assert {key.partition(".")[0] for key in network.state_dict().keys() - tensors.keys()} == (
        set() if embedders else {"patch_embed", "time_embed", "caption_projection", "caption_norm"}
    )
    assert all(tensor.is_meta for tensor in load_controlnet(folder / name, device="meta").state_dict().values())
    assert load_controlnet(folder / name, dtype=torch.bfloat16).input_block.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("change, named", [
    (lambda sd: sd.pop("controlnet.0.before_proj.weight"), r"1 missing \(controlnet\.0\.before_proj\.weight\)"),
    (lambda sd: sd.pop("controlnet.1.copied_block.attn.qkv.weight"),
     r"1 missing \(controlnet\.1\.copied_block\.attn\.qkv\.weight"),
    (lambda sd: sd.update({"controlnet.0.lora": torch.zeros(1)}), r"1 unexpected \(controlnet\.0\.lora\)"),
    (lambda sd: sd.update({"controlnet.1.after_proj.weight": torch.zeros(3, 3)}),
     r"after_proj\.weight \(3, 3\) instead of \(224, 224\)"),
])  # fmt: skip
def test_what_does_not_fit_is_named(layouts, tmp_path, change, named):
    tensors = torch.load(layouts[0] / "alone.pth", weights_only=True)
    change(tensors)
    torch.save(tensors, tmp_path / "damaged.pth")
    with pytest.raises(CheckpointError, match=rf"damaged\.pth: .*{named}"):
        load_controlnet(tmp_path / "damaged.pth")


def test_other_files_are_called_what_they_are(layouts, tmp_path):
    save_file(tiny.transformer().state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="expected a SANA ControlNet, found a SANA transformer"):
        load_controlnet(tmp_path / "model.safetensors")
    save_file(
        {"controlnet_blocks.0.weight": torch.zeros(2, 2), "double_blocks.0.img_attn.qkv.weight": torch.zeros(2)},
        tmp_path / "flux.safetensors",
    )
    with pytest.raises(CheckpointError, match="expected a SANA ControlNet, found a Flux model"):
        load_controlnet(tmp_path / "flux.safetensors")
    with pytest.raises(CheckpointError, match="expected a SANA transformer, found a SANA ControlNet"):
        load_transformer(layouts[0] / "whole.pth")
    with pytest.raises(InputError, match="expected one of upstream, diffusers"):
        load_controlnet(layouts[0] / "alone.pth", order="other")


# The control picture


def test_pictures_are_cropped_at_the_centre_and_resized():
    ramp = torch.linspace(0, 1, 128).expand(1, 3, 64, 128)
    assert torch.equal(control_picture(ramp, 128, 64), ramp)
    torch.testing.assert_close(control_picture(ramp, 64, 64), ramp[..., 32:96])
    halved = control_picture(ramp[0], 64, 32)
    torch.testing.assert_close(halved[..., 4:-4], ramp.unfold(-1, 2, 2).mean(-1)[..., ::2, 4:-4], rtol=1e-4, atol=1e-5)
    assert control_picture(torch.eye(64).expand(1, 3, 64, 64), 96, 160).aminmax() == (0.0, 1.0)
    with pytest.raises(InputError, match=r"\(1, 4, 64, 64\)"):
        control_picture(torch.zeros(1, 4, 64, 64), 64, 64)


def test_pictures_of_pil_and_tensors_are_the_same():
    pixels = (torch.rand(40, 52, 3, generator=torch.Generator().manual_seed(0)) * 255).byte()
    found = control_picture(Image.fromarray(pixels.numpy()), 96, 64)
    assert found.shape == (1, 3, 64, 96) and found.dtype == torch.float32
    assert torch.equal(found, control_picture(pixels.permute(2, 0, 1) / 255.0, 96, 64))


def test_resizing_is_that_of_pil():
    pixels = (
        64 + 128 * torch.rand(96, 128, 3, generator=torch.Generator().manual_seed(0))
    ).byte()  # no overshoot past 0 and 255
    image = Image.fromarray(pixels.numpy())
    for size in ((64, 48), (192, 144)):
        theirs = torch.from_numpy(np.array(image.resize(size, Image.Resampling.BICUBIC))).permute(2, 0, 1)[None] / 255.0
        assert (control_picture(image, *size) - theirs).abs().max() < 1.5 / 255
