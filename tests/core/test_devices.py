"""What networks, samplers and the pipeline come to on every device of this machine: what they come to in float64 on the
CPU. On a machine with a GPU this file says within a minute whether it can be trusted.
"""

import pytest
import tiny
import tiny_lora
import tiny_pipeline
import tiny_text
import torch
from agreement import assert_agree
from safetensors.torch import save_file

from sana_core import apply_lora, load_lora, load_pipeline
from sana_core.config import POSITIONS
from sana_core.latents import noise
from sana_core.pictures.soft_edge import soft_edge
from sana_core.samplers.denoiser import make_denoiser
from sana_core.samplers.methods import SAMPLERS
from sana_core.text.gemma import GemmaTextEncoder
from sana_core.text.tokenizer import tokenizer_from_bytes
from sana_core.transformer.controlnet import ORDERS, ControlBranch

SINGLE = 2e-4  # largest error over the rms; 2e-5 at most was measured on CPUs
REDUCED = {torch.bfloat16: 0.3, torch.float16: 0.03}  # measured: 0.03 and 0.004
RELEASES = {
    "1.0": {},
    "1.0 in float16": {"fp16_trained": True},
    "2K": {"position": POSITIONS["2k"]},
    "1.5": {"qk_norm": True},
    "Sprint": {"qk_norm": True, "guidance_embed": True},
}


def drawn(*shape, seed=1):
    """Random numbers in float64, on the CPU."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


LATENT, CONTEXT, TIME = drawn(2, 32, 4, 6), drawn(2, 7, 96, seed=2), torch.tensor([999.0, 250.0], dtype=torch.float64)
MASK = torch.tensor([[True] * 7, [True] * 3 + [False] * 4])


def velocity(model, device="cpu", dtype=torch.float64, **more):
    """Of a tiny transformer on the device; the result on the CPU."""
    model, more = model.to(device, dtype), {key: value.to(device) for key, value in more.items()}
    latent, context = LATENT.to(device, dtype), CONTEXT.to(device, dtype)
    time = TIME.to(device, torch.float32 if dtype != torch.float64 else dtype)
    if model.config.guidance_embed:
        more["guidance"] = torch.full((2,), 4.5, device=device)
    return model(latent, time, context, MASK.to(device), **more).cpu()


@pytest.mark.parametrize("release", RELEASES)
def test_transformer(device, release):
    expected = velocity(tiny.transformer(**RELEASES[release]))
    assert_agree(velocity(tiny.transformer(**RELEASES[release]), device, torch.float32), expected, SINGLE)


@pytest.mark.parametrize("dtype", REDUCED)
@pytest.mark.parametrize("release", RELEASES)
def test_transformer_in_16_bits(device, release, dtype):
    expected = velocity(tiny.transformer(**RELEASES[release]))
    assert_agree(velocity(tiny.transformer(**RELEASES[release]), device, dtype), expected, REDUCED[dtype])


@pytest.mark.parametrize("order", ORDERS)
def test_controlnet(device, order):
    def controlled(device, dtype):
        network = tiny.controlnet(order=order).to(device, dtype)
        branch = ControlBranch(network, drawn(1, 32, 4, 6, seed=3).to(device, dtype), 0.5)
        model = tiny.transformer(depth=3).to(device, dtype)
        time = TIME.to(device, dtype)
        return model(LATENT.to(device, dtype), time, CONTEXT.to(device, dtype), control=[branch]).cpu()

    assert_agree(controlled(device, torch.float32), controlled("cpu", torch.float64), SINGLE)


@pytest.mark.parametrize("lite", [False, True])
@pytest.mark.parametrize("tile", [None, 128])
def test_autoencoder(device, lite, tile):
    latent = drawn(1, 32, 5, 6)
    exact, model = tiny.autoencoder(lite=lite).double(), tiny.autoencoder(lite=lite).to(device)
    image = exact.decode(latent)
    assert_agree(model.decode(latent.to(device, torch.float32), tile=tile).cpu(), image, SINGLE)
    image = image.clamp(-1.0, 1.0)
    assert_agree(model.encode(image.to(device, torch.float32), tile=tile).cpu(), exact.encode(image), SINGLE)


def test_autoencoder_in_bfloat16(device):
    latent = drawn(1, 32, 3, 3)
    found = tiny.autoencoder().to(device, torch.bfloat16).decode(latent.to(device, torch.bfloat16))
    assert_agree(found.cpu(), tiny.autoencoder().double().decode(latent), 0.6)  # measured: 0.06


def text_encoder(dtype, device):
    config = tiny_text.config()
    weights = {key: tensor.to(device, dtype) for key, tensor in tiny_text.state_dict(config).items()}
    return GemmaTextEncoder(config, tokenizer_from_bytes(tiny_text.spiece(), "tiny"), weights)


def test_text_encoder(device):
    prompts = ["a red apple on a wooden table", "", "a cat"]
    states, mask = text_encoder(torch.float32, device).encode(prompts, instruction="default")
    expected, expected_mask = text_encoder(torch.float64, "cpu").encode(prompts, instruction="default")
    assert states.device.type == mask.device.type == device.type
    assert torch.equal(mask.cpu(), expected_mask)
    assert_agree(states.cpu(), expected, SINGLE)


# --- sampling


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers(device, name):
    """Also with perturbed attention, which needs a second forward."""

    def run(device, dtype):
        sampler = SAMPLERS[name]
        changes = {"qk_norm": True, "guidance_embed": True} if sampler.step_noise else {}
        texts = [(CONTEXT[i:].to(device, dtype)[:1], MASK[i:].to(device)[:1]) for i in range(2)]
        model = tiny.transformer(**changes).to(device, dtype)
        denoise = make_denoiser(model, *texts, guidance_scale=3.0, pag_scale=1.0, pag_layers=[1])
        x, steps = LATENT[:1].to(device, dtype), {"step_noise": LATENT[1:].expand(4, 1, -1, -1, -1).to(device, dtype)}
        return sampler.sample(denoise, x, sampler.sigmas(4, 3.0), **(steps if sampler.step_noise else {})).cpu()

    assert_agree(run(device, torch.float32), run("cpu", torch.float32).double(), 1e-3)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return tiny_pipeline.write_files(tmp_path_factory.mktemp("sana"))


@pytest.fixture(scope="module")
def pipeline(files, device):
    return load_pipeline(files, device=device, dtype=torch.float32)


def test_a_seed_is_the_same_noise_on_every_device(pipeline, device):
    found = pipeline.start(pipeline.resolve("a cat", batch_size=2, seed=5)).noise
    assert found.device.type == device.type and torch.equal(found.cpu(), noise((2, 32, 2, 3), 5))


def test_a_batch_is_its_pictures(pipeline):
    prompts = ["a cat", "a small fluffy red apple on a wooden table"]
    latents = noise((2, 32, 2, 3), 3)
    together = pipeline(prompts, "blurry", latents=latents, output="latent")
    alone = [pipeline(prompts[i], "blurry", latents=latents[i : i + 1], output="latent") for i in range(2)]
    assert_agree(together.cpu(), torch.cat(alone).cpu(), 1e-3)


def test_a_part_of_a_picture_is_redrawn(pipeline):
    picture, mask = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(1)), torch.zeros(1, 64, 96)
    mask[..., :32] = 1.0
    found = pipeline("a cat", seed=1, image=picture, mask=mask, output="latent")
    kept = pipeline.encode_image(picture, pipeline.resolve("", width=96, height=64))
    assert torch.equal(found[..., 1:], kept[..., 1:]) and not torch.equal(found[..., :1], kept[..., :1])


def test_offloaded_networks_draw_the_same(files, pipeline, device):
    offloaded = load_pipeline(files, device=device, dtype=torch.float32, offload=True)
    found = offloaded("a cat", seed=1, output="tensor")
    assert_agree(found.cpu(), pipeline("a cat", seed=1, output="tensor").cpu(), SINGLE)
    assert {parameter.device.type for parameter in offloaded.transformer.parameters()} == {"cpu"}


def test_lora(device, tmp_path):
    model = tiny.transformer().to(device)
    factors = tiny_lora.factors(model.cpu())
    save_file(tiny_lora.peft(factors), tmp_path / "lora.safetensors")
    before = {name: tensor.double() for name, tensor in model.state_dict().items()}
    report = apply_lora(model.to(device), load_lora(tmp_path / "lora.safetensors"), 0.7)
    assert not report.unmatched
    for name, delta in tiny_lora.deltas(factors).items():
        weight = model.get_submodule(name).weight
        assert weight.device.type == device.type
        expected = before[f"{name}.weight"] + 0.7 * delta.double().reshape(weight.shape)
        torch.testing.assert_close(weight.cpu().double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("thin", [False, True])
def test_soft_edges(device, thin):
    edges = drawn(1, 3, 32, 32).sigmoid().float()
    assert_agree(soft_edge(edges.to(device), thin=thin).cpu(), soft_edge(edges, thin=thin), 1e-5)
