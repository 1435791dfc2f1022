"""SANA's ControlNet under ComfyUI's own nodes computes what sana_core computes."""

import logging

import folder_paths
import pytest
import torch
from agreement import assert_agree, error
from comfy import controlnet as host
from comfy import memory_management, model_management, sd
from e2e import in_process
from safetensors.torch import load_file, save_file
from sana_pack.nodes import controlnet as controlnet_nodes
from sana_pack.nodes.bridge import control, loading, sampling, transformer
from sana_pack.nodes.bridge import vae as vae_bridge
from sana_pack.sana_core import errors
from sana_pack.sana_core.checkpoint import load as core
from sana_pack.sana_core.pictures import control as core_control
from sana_pack.sana_core.samplers import denoiser, schedules
from sana_pack.sana_core.samplers import flow_dpm as solver
from sana_pack.sana_core.transformer import controlnet as core_controlnet

import nodes as comfy_nodes

GENERATOR = torch.Generator().manual_seed(3)
STATES = [torch.randn(1, length, 48, generator=GENERATOR) for length in (9, 5)]  # positive, negative
PICTURE = torch.rand(1, 80, 112, 3, generator=GENERATOR)
NOISE = torch.randn(1, 32, 3, 4, generator=GENERATOR)
STEPS = 4


@pytest.fixture(scope="module", autouse=True)
def controlnet_folder(models):
    folder_paths.add_model_folder_path("controlnet", str(models / "controlnet"))


@pytest.fixture(scope="module")
def model(file):
    return loading.load_model(file("diffusion_models", "sana.safetensors"))


@pytest.fixture(scope="module")
def vae(file):
    return vae_bridge.load_vae(file("vae", "dcae.safetensors"))


def stock(name):
    return comfy_nodes.ControlNetLoader().load_controlnet(name)[0]


def prompts(positive=STATES[0]):
    return [[positive, {}]], [[STATES[1], {}]]


def applied(conditioning, network, vae, picture=PICTURE, strength=1.0, start=0.0, end=1.0):
    return comfy_nodes.ControlNetApplyAdvanced().apply_controlnet(
        *conditioning, network, picture, strength, start, end, vae=vae
    )


def sample(model, conditioning, noise=NOISE, cfg=4.5, sigmas=None):
    sigmas = sampling.make_sigmas(model, "flow_dpm", STEPS) if sigmas is None else sigmas
    return in_process.sample(model, conditioning, noise, sampling.make_sampler("flow_dpm"), sigmas, cfg=cfg)


def expected(file, controls, noise=NOISE, active=lambda sigma: True):
    """sana_core's own: (file, order, scale, picture) each. `active` says at which sigmas."""
    base = core.load_transformer(file("diffusion_models", "sana.safetensors"))
    dcae = core.load_autoencoder(file("vae", "dcae.safetensors"))
    height, width = (32 * cells for cells in noise.shape[-2:])
    branches = []
    for name, order, scale, picture in controls:
        latent = dcae.encode(core_control.control_picture(picture.movedim(-1, 1), width, height) * 2 - 1)
        network = core.load_controlnet(file("controlnet", name), order=order)
        branches.append(core_controlnet.ControlBranch(network, latent, scale))
    cond, uncond = (
        (states.expand(len(noise), -1, -1), torch.ones(len(noise), states.shape[1], dtype=torch.bool))
        for states in STATES
    )
    kinds = [
        denoiser.make_denoiser(base, cond, uncond, guidance_scale=4.5, control=chosen) for chosen in (branches, ())
    ]
    return solver.sample_flow_dpm(
        lambda x, sigma: kinds[not active(sigma)](x, sigma), noise.clone(), schedules.flow_dpm_sigmas(STEPS, 3.0)
    )


@pytest.mark.parametrize("name", ["control.pth", "control_alone.pth", "control.safetensors"])
def test_stock_nodes_agree_with_sana_core(file, model, vae, name):
    network = stock(name)
    assert isinstance(network, control.SanaControl) and network.control_model.order == "upstream"
    found = sample(model, applied(prompts(), network, vae, strength=0.8))
    assert_agree(found, expected(file, [(name, "upstream", 0.8, PICTURE)]), 1e-4)
    assert error(found, sample(model, prompts())) > 0.05


@pytest.mark.parametrize("name", ["control.pth", "control.safetensors"])
def test_diffusers_order_of_the_own_loader(file, model, vae, name):
    (network,) = controlnet_nodes.SanaNativeLoadControlNet.execute(name, "diffusers").result
    found = sample(model, applied(prompts(), network, vae))
    assert_agree(found, expected(file, [(name, "diffusers", 1.0, PICTURE)]), 1e-4)
    assert error(found, sample(model, applied(prompts(), stock(name), vae))) > 0.01


def test_diff_loader(model, vae):
    (network,) = comfy_nodes.DiffControlNetLoader().load_controlnet(model, "control.pth")
    assert_agree(
        sample(model, applied(prompts(), network, vae)),
        sample(model, applied(prompts(), stock("control.pth"), vae)),
        1e-6,
    )


def test_two_add_up_in_either_order(file, model, vae):
    pictures = [PICTURE, PICTURE.flip(2)]
    first, second = stock("control.pth"), stock("control.safetensors")
    found = sample(model, applied(applied(prompts(), first, vae, pictures[0]), second, vae, pictures[1], 0.5))
    both = [("control.pth", "upstream", 1.0, pictures[0]), ("control.safetensors", "upstream", 0.5, pictures[1])]
    assert_agree(found, expected(file, both), 1e-4)
    other = sample(model, applied(applied(prompts(), second, vae, pictures[1], 0.5), first, vae, pictures[0]))
    assert_agree(found, other, 1e-5)


@pytest.mark.parametrize("start, end", [(0.0, 0.5), (0.3, 1.0), (0.3, 0.7)])
def test_start_and_end(file, model, vae, start, end):
    ends = [model.model.model_sampling.percent_to_sigma(percent) for percent in (start, end)]
    found = sample(model, applied(prompts(), stock("control.pth"), vae, start=start, end=end))
    wanted = expected(
        file, [("control.pth", "upstream", 1.0, PICTURE)], active=lambda sigma: ends[1] <= sigma <= ends[0]
    )
    assert_agree(found, wanted, 1e-4)
    assert error(found, sample(model, applied(prompts(), stock("control.pth"), vae))) > 1e-2


def test_outside_its_range_the_one_before_still_acts(model, vae):
    inner = applied(prompts(), stock("control.pth"), vae)
    never = applied(inner, stock("control.safetensors"), vae, start=0.9999, end=0.99995)
    assert_agree(sample(model, never), sample(model, inner), 1e-6)


def test_strength_zero_is_no_control(model, vae):
    plain = sample(model, prompts())
    assert torch.equal(sample(model, applied(prompts(), stock("control.pth"), vae, strength=0.0)), plain)
    network = stock("control.pth").copy().set_cond_hint(PICTURE.movedim(-1, 1), 0.0, vae=vae)
    conditioning = [[[states, {"control": network}]] for states in STATES]
    assert torch.equal(sample(model, conditioning), plain)


@pytest.mark.parametrize("pictures", [1, 2, 3])
def test_batches(file, model, vae, pictures):
    """One picture serves all; two for three are repeated; a third for two is not used."""
    count = 3 if pictures == 2 else 2
    noise = torch.randn(count, 32, 3, 4, generator=torch.Generator().manual_seed(7))
    hints = torch.rand(pictures, 64, 96, 3, generator=torch.Generator().manual_seed(8))
    found = sample(model, applied(prompts(), stock("control.pth"), vae, hints), noise)
    for row in range(count):
        hint = hints[row % pictures : row % pictures + 1]
        assert_agree(
            found[row : row + 1], expected(file, [("control.pth", "upstream", 1.0, hint)], noise[row : row + 1]), 1e-4
        )


def test_control_on_the_positive_alone(model, vae):
    """Differently controlled prompts run apart, and the old Apply ControlNet has no VAE."""
    positive, _ = applied(prompts(), stock("control.pth"), vae)
    found = sample(model, (positive, prompts()[1]))
    assert error(found, sample(model, prompts())) > 0.01
    assert error(found, sample(model, applied(prompts(), stock("control.pth"), vae))) > 0.01
    (old,) = comfy_nodes.ControlNetApply().apply_controlnet(prompts()[0], stock("control.pth"), PICTURE, 1.0)
    with pytest.raises(errors.InputError, match="connect the VAE of SANA to Apply ControlNet"):
        sample(model, (old, prompts()[1]))


def test_the_picture_is_encoded_once_per_size(model, vae, monkeypatch):
    calls, encode = [], vae.encode
    monkeypatch.setattr(vae, "encode", lambda picture: calls.append(tuple(picture.shape)) or encode(picture))
    network = stock("control.pth")
    conditioning = applied(prompts(), network, vae)
    sample(model, conditioning)
    sample(model, conditioning, torch.randn(1, 32, 2, 2))
    assert calls == [(1, 96, 128, 3), (1, 64, 64, 3)]


def test_sprint(file, vae):
    sprint = loading.load_model(file("diffusion_models", "sprint.safetensors"))
    sigmas = torch.tensor([1.0, 0.0])
    found = sample(sprint, applied(prompts(), stock("control.pth"), vae), cfg=1.0, sigmas=sigmas)
    base = core.load_transformer(file("diffusion_models", "sprint.safetensors"))
    dcae = core.load_autoencoder(file("vae", "dcae.safetensors"))
    latent = dcae.encode(core_control.control_picture(PICTURE.movedim(-1, 1), 128, 96) * 2 - 1)
    branch = core_controlnet.ControlBranch(core.load_controlnet(file("controlnet", "control.pth")), latent)
    velocity = base(NOISE, torch.tensor([1000.0]), STATES[0], guidance=torch.tensor([4.5]), control=[branch])
    assert_agree(found, NOISE - velocity, 1e-4)


def test_a_host_lora_changes_what_upstreams_order_reads(file, model, vae):
    """The ControlNet reads the output of the model's own block 0, whatever was done to that block."""
    patched = model.clone()
    key = "diffusion_model.transformer_blocks.0.ff.conv_point.weight"
    weight = torch.zeros_like(model.model.state_dict()[key])
    patched.add_patches({key: ("diff", (weight + 0.05,))})
    found = sample(patched, applied(prompts(), stock("control.pth"), vae))
    assert error(found, sample(model, applied(prompts(), stock("control.pth"), vae))) > 1e-2


# --- wrong pairings


def test_another_width_names_both(model, vae):
    with pytest.raises(errors.InputError, match="ControlNet is for SANA models 288 wide, the model is 224 wide"):
        sample(model, applied(prompts(), stock("control_288.safetensors"), vae))


def test_another_vae(model):
    other = sd.VAE({"pixel_space_vae": torch.tensor(1.0)})
    with pytest.raises(errors.InputError, match="the VAE at Apply ControlNet is not SANA's"):
        sample(model, applied(prompts(), stock("control.pth"), other))


def test_a_model_that_is_not_sana(vae):
    network = stock("control.pth")
    with pytest.raises(errors.InputError, match=r"applied to a model that is not SANA \(SDXL\)"):
        network.pre_run(type("SDXL", (), {})(), float)


class Foreign(host.ControlBase):
    """A ControlNet of another model, whose residuals go to the host's own entries."""

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
        previous = self.previous_controlnet
        previous = previous and previous.get_control(x_noisy, t, cond, batched_number, transformer_options)
        return self.control_merge({"input": [torch.ones(1, 4, 2, 2)]}, previous, None)


@pytest.mark.parametrize("sana_first", [False, True])
def test_a_controlnet_of_another_model(model, vae, sana_first):
    conditioning = prompts()
    for own in (True, False) if sana_first else (False, True):
        if own:
            conditioning = applied(conditioning, stock("control.pth"), vae)
        else:
            controls = [Foreign().set_previous_controlnet(item[1].get("control")) for (item,) in conditioning]
            conditioning = [
                [[item[0], {**item[1], "control": network}]] for (item,), network in zip(conditioning, controls)
            ]
    with pytest.raises(errors.InputError, match="a ControlNet of another kind of model is applied to this SANA model"):
        sample(model, conditioning)


def test_damaged_files(file, tmp_path):
    tensors = torch.load(file("controlnet", "control_alone.pth"), weights_only=True)
    del tensors["controlnet.0.before_proj.bias"]
    torch.save(tensors, tmp_path / "damaged.pth")
    for load in (host.load_controlnet, control.load_control):
        with pytest.raises(errors.CheckpointError, match=r"1 missing \(controlnet\.0\.before_proj\.bias\)"):
            load(str(tmp_path / "damaged.pth"))
    with pytest.raises(errors.CheckpointError, match="expected a SANA ControlNet, found a SANA transformer"):
        control.load_control(file("diffusion_models", "sana.safetensors"))


def test_other_controlnets_pass_through(tmp_path, caplog):
    save_file({"control_of_nothing": torch.zeros(2)}, tmp_path / "other.safetensors")
    with caplog.at_level(logging.ERROR):
        assert host.load_controlnet(str(tmp_path / "other.safetensors")) is None
    assert "could not detect control model type" in caplog.text


# --- what the host needs


def test_the_host_loads_all_networks(vae):
    first, second = stock("control.pth"), stock("control.safetensors")
    (_, options), *_ = applied(applied(prompts(), first, vae), second, vae)[0]
    assert options["control"].get_models() == [first.control_model_wrapped, second.control_model_wrapped]
    assert options["control"].control_model is second.control_model


def test_number_types(file, tmp_path, vae):
    """Weights stored in 16 bit serve a model that computes in float32, and the other way round; timesteps are exact in
    all.
    """
    tensors = load_file(file("controlnet", "control.safetensors"))
    base = core.load_transformer(file("diffusion_models", "sana.safetensors"))
    hosted = transformer.ComfySana(
        config=base.config, image_model="sana", dtype=torch.float32, operations=control.comfy.ops.manual_cast
    )
    hosted.load_state_dict(base.state_dict())
    args = NOISE, torch.tensor([782.0]), STATES[0]
    for dtype in (torch.bfloat16, torch.float16):
        rounded = {key: tensor.to(dtype) for key, tensor in tensors.items()}
        save_file(rounded, tmp_path / "stored.safetensors")
        plain = core.load_controlnet(tmp_path / "stored.safetensors", order="diffusers", dtype=torch.float32)
        network = control.build_control(rounded, "diffusers", {"dtype": dtype}).control_model
        assert network.input_block.weight.dtype == dtype
        found = hosted(*args, control={control.CONTROL: (core_controlnet.ControlBranch(network, NOISE.flip(0)),)})
        assert_agree(found, base(*args, control=[core_controlnet.ControlBranch(plain, NOISE.flip(0))]), 1e-5)


def test_every_large_layer_is_the_hosts():
    network = stock("control.safetensors").control_model
    streamed = {name for name, module in network.named_modules() if hasattr(module, "comfy_cast_weights")}
    rest = {key for key in network.state_dict() if key.rpartition(".")[0] not in streamed}
    assert {key.rpartition(".")[2] for key in rest} == {"scale_shift_table"}


def test_construction_without_weights(monkeypatch, file):
    """Under dynamic VRAM the host makes layers without weights; they come from the file."""
    monkeypatch.setattr(memory_management, "aimdo_enabled", True)
    monkeypatch.setattr(model_management, "WINDOWS", True)  # where ComfyUI 0.28 does so
    tensors = load_file(file("controlnet", "control.safetensors"))
    network = control.build_control(tensors).control_model
    assert torch.equal(network.input_block.weight, tensors["input_block.weight"])


def test_compiled(model):
    """What torch.compile makes of the model with a ControlNet in its call is the same."""
    network = stock("control.pth").control_model
    hosted = model.model.diffusion_model
    args = NOISE, torch.tensor([782.0]), STATES[0]
    branches = {control.CONTROL: (core_controlnet.ControlBranch(network, NOISE.flip(0)),)}
    expected = hosted(*args, control=branches)
    assert_agree(torch.compile(hosted, backend="eager")(*args, control=branches), expected, 1e-6)


def test_diffusers_latents(oracle):
    """The oracle's twenty steps, with the host's loaders, in both orders and from both layouts."""
    reference = load_file(oracle / "ref.safetensors")
    model = loading.load_model(str(oracle / "fix" / "original" / "sana.pth"))
    conditioning = [[[reference[f"sana/conditioning/in_{name}"][None], {}]] for name in ("positive", "negative")]
    vae = vae_bridge.load_vae(str(oracle / "fix" / "single" / "vae.safetensors"))
    picture = reference["controlnet/image/in_uint8"][None] / 255.0
    cases = [
        ("original/controlnet.pth", "upstream", "alt_nvlabs_latents"),
        ("single/controlnet.safetensors", "diffusers", "latents"),
    ]
    for name, order, result in cases:
        network = control.load_control(str(oracle / "fix" / name), order)
        noise = reference["controlnet/dpm20_scale1/in_latents"]
        found = sample(
            model,
            applied(conditioning, network, vae, picture),
            noise,
            sigmas=sampling.make_sigmas(model, "flow_dpm", 20),
        )
        assert_agree(found, reference[f"controlnet/dpm20_scale1/{result}"], 1e-3)


# --- soft edges


@pytest.mark.parametrize("lines, white", [("soft", 0), ("thin", 11)])
def test_soft_edge_node(lines, white):
    edges = torch.zeros(2, 48, 64, 3)
    edges[:, :, 30] = 1.0
    (found,) = controlnet_nodes.SanaNativeSoftEdge.execute(edges, lines, 2).result
    assert found.shape == (2, 48, 64, 3)
    assert (found.sum(dim=2) == white).all()
