"""The same latents and prompt through ComfyUI's solver, the pack's SAMPLER and sana_core give the same result."""

import pytest
import torch
from agreement import assert_agree
from comfy import samplers as host
from comfy import sd
from e2e.graphs import NEGATIVE, PROMPT
from e2e.in_process import sample
from safetensors import torch as safetensors
from sana_pack.nodes.bridge import loading, sampling
from sana_pack.sana_core import pipeline


def host_dpm():
    return host.ksampler("dpmpp_2m_sde", {"eta": 0.0, "solver_type": "midpoint", "s_noise": 1.0})


@pytest.fixture(scope="module")
def core(file):
    names = {
        "transformer": "diffusion_models/sana.safetensors",
        "autoencoder": "vae/dcae.safetensors",
        "text_encoder": "text_encoders/gemma.safetensors",
    }
    return pipeline.load_pipeline({part: file(*name.split("/")) for part, name in names.items()}, device="cpu")


@pytest.mark.parametrize("name", ["flow_dpm", "flow_euler"])
def test_three_routes(file, conditioning, core, name):
    model = loading.load_model(file("diffusion_models", "sana.safetensors"))
    noise = torch.randn(2, 32, 4, 6, generator=torch.Generator().manual_seed(5))
    sigmas = sampling.make_sigmas(model, name, 12)
    ours = sample(model, conditioning, noise, sampling.make_sampler(name), sigmas)
    expected = core(
        PROMPT, NEGATIVE, steps=12, sampler=name, latents=noise, batch_size=2, guidance_scale=4.5, output="latent"
    )
    assert_agree(ours, expected, 1e-4)
    if name == "flow_dpm":
        assert_agree(sample(model, conditioning, noise, host_dpm(), sigmas), expected, 1e-4)


def test_seed_draws_the_same_noise(file, core, clip):
    model = loading.load_model(file("diffusion_models", "sana.safetensors"))
    request = pipeline.Request(PROMPT, negative_prompt=NEGATIVE, seed=7, width=192, height=128, steps=4)
    latent = sampling.generate(model, clip, request)["samples"]
    expected = core(PROMPT, NEGATIVE, width=192, height=128, steps=4, seed=7, output="latent")
    assert_agree(model.model.latent_format.process_in(latent), expected, 1e-4)


@pytest.mark.parametrize("case, file", [
    ("dpm20", "single/transformer_sana.safetensors"),
    ("dpm20", "original/sana.pth"),
    ("sana15_dpm20", "original/sana15.pth"),
    ("sana2k_dpm20", "original/sana2k.pth"),
    ("sana4k_dpm20", "original/sana4k.pth"),
    ("euler20", "single/transformer_sana.safetensors"),
    ("sana06_euler20", "original/sana06.pth"),
])  # fmt: skip
def test_diffusers_trajectory(oracle, case, file):
    reference = oracle_tensors(oracle)
    model = sd.load_diffusion_model(str(oracle / "fix" / file))  # the host's own loader
    name = "flow_euler" if "euler" in case else "flow_dpm"
    samplers = [sampling.make_sampler(name), *([host_dpm()] if name == "flow_dpm" else [])]
    conditioning = [[[reference[f"sana/conditioning/in_{name}"][None], {}]] for name in ("positive", "negative")]
    for sampler in samplers:
        noise, sigmas = reference[f"sana/{case}/in_latents"], sampling.make_sigmas(model, name, 20)
        found = sample(model, conditioning, noise, sampler, sigmas)
        assert_agree(found, reference[f"sana/{case}/latents"], 1e-3)


def test_sprint_step(oracle):
    reference = oracle_tensors(oracle)
    model = sd.load_diffusion_model(str(oracle / "fix" / "original" / "sprint.pth"))
    positive = [[reference["sana/conditioning/in_positive"][None], {"guidance": 4.5}]]
    noise, sigmas = reference["sprint/steps1/in_latents"], torch.tensor([1.0, 0.0])
    found = sample(model, (positive, positive), noise, host.sampler_object("lcm"), sigmas, cfg=1.0)
    assert_agree(found, reference["sprint/steps1/latents"], 5e-4)


def oracle_tensors(oracle):
    return safetensors.load_file(oracle / "ref.safetensors")
