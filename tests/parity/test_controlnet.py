"""ControlNet against diffusers, and in upstream's order against its modules called in NVlabs' order, float32."""

import pytest
import torch
from agreement import assert_agree
from PIL import Image

from sana_core.checkpoint.load import load_autoencoder, load_controlnet, load_transformer
from sana_core.pictures.control import control_picture
from sana_core.samplers.denoiser import make_denoiser
from sana_core.samplers.flow_dpm import sample_flow_dpm
from sana_core.samplers.schedules import flow_dpm_sigmas
from sana_core.transformer.controlnet import ControlBranch

LAYOUTS = ["original/controlnet.pth", "single/controlnet.safetensors", "controlnet", "pipelines/sana_controlnet"]
FORWARD = {"upstream": "alt_nvlabs_scale{}", "diffusers": "out_scale{}"}
LATENTS = [
    ("upstream", 1.0, "dpm20_scale1/alt_nvlabs_latents"),
    ("diffusers", 1.0, "dpm20_scale1/latents"),
    ("diffusers", 0.5, "dpm20_scale0.5/latents"),
]
GIVEN = ("in_latent", "in_timestep", "in_text", "mask", "in_cond")


@pytest.fixture(scope="module")
def reference(oracle):
    return {
        key.removeprefix("controlnet/"): tensor
        for key, tensor in oracle.reference.items()
        if key.startswith("controlnet/")
    }


@pytest.fixture(scope="module")
def transformer(oracle):
    return load_transformer(oracle.fixtures / "original" / "sana.pth")


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("order", FORWARD)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_forward(oracle, reference, transformer, layout, order, scale):
    network = load_controlnet(oracle.fixtures / layout, order=order)
    latent, timestep, text, mask, cond = (reference[f"forward/{name}"] for name in GIVEN)
    found = transformer(latent, timestep, text, mask.bool(), control=[ControlBranch(network, cond, scale)])
    assert_agree(found, reference[f"forward/{FORWARD[order].format(f'{scale:g}')}"], 1e-4)


def test_residuals(oracle, reference, transformer):
    network, residuals = load_controlnet(oracle.fixtures / "controlnet", order="diffusers"), []
    hooks = [
        layer.register_forward_hook(lambda module, inputs, output: residuals.append(output))
        for layer in network.controlnet_blocks
    ]
    latent, timestep, text, mask, cond = (reference[f"forward/{name}"] for name in GIVEN)
    transformer(latent, timestep, text, mask.bool(), control=[ControlBranch(network, cond)])
    assert len(hooks) == len(residuals) == 7
    for index, residual in enumerate(residuals):
        assert_agree(residual, reference[f"forward/mid_residual{index}"], 1e-4)


@pytest.fixture(scope="module")
def latent(oracle, reference):
    autoencoder = load_autoencoder(oracle.fixtures / "single" / "vae.safetensors")
    picture = Image.fromarray(reference["image/in_uint8"].numpy())
    return autoencoder.encode(control_picture(picture, 320, 256) * 2 - 1)


def test_control_latents(reference, latent):
    assert_agree(latent, reference["image/cond_latent"], 2e-4)


@pytest.mark.parametrize("order, scale, name", LATENTS)
@pytest.mark.parametrize("layout", LAYOUTS[:2])
def test_latents(oracle, reference, transformer, latent, layout, order, scale, name):
    """Twenty steps with guidance, from the control picture."""
    network = load_controlnet(oracle.fixtures / layout, order=order)
    prompts = [oracle.reference[f"sana/conditioning/in_{prompt}"][None] for prompt in ("positive", "negative")]
    cond, uncond = ((states, torch.ones(states.shape[:2], dtype=torch.bool)) for states in prompts)
    denoise = make_denoiser(
        transformer, cond, uncond, guidance_scale=4.5, control=[ControlBranch(network, latent, scale)]
    )
    start = reference[f"{name.split('/')[0]}/in_latents"]
    assert_agree(sample_flow_dpm(denoise, start, flow_dpm_sigmas(20, 3.0)), reference[name], 1e-3)
