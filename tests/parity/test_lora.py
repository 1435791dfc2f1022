"""LoRA against diffusers, float32: the oracle's files on every layout of the model."""

import pytest
import torch
from agreement import assert_agree

from sana_core.checkpoint.load import load_transformer
from sana_core.lora import apply_lora, load_lora
from sana_core.samplers.denoiser import make_denoiser
from sana_core.samplers.flow_dpm import sample_flow_dpm
from sana_core.samplers.schedules import flow_dpm_sigmas

LAYOUTS = ["single/transformer_sana.safetensors", "original/sana.pth", "pipelines/sana/transformer"]
FILES = {  # our file -> the reference's name for the same weights
    "peft_diffusers": "peft_diffusers",
    "peft_diffusers_alpha8": "peft_diffusers_alpha8",
    "kohya_as_peft_alpha2": "kohya_as_peft_alpha2",
    "kohya": "kohya_as_peft_alpha2",
}


def loaded(oracle, layout, **strengths):
    model = load_transformer(oracle.fixtures / layout)
    for name, strength in strengths.items():
        apply_lora(model, load_lora(oracle.fixtures / "lora" / f"{name}.safetensors"), strength)
    return model


def forward(oracle, model):
    latent, timestep, text = (oracle.reference[f"lora/forward/in_{name}"] for name in ("latent", "timestep", "text"))
    with torch.no_grad():
        return model(latent, timestep, text)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("strength", ["1", "0.5"])
def test_oracle_forward(oracle, name, layout, strength):
    found = forward(oracle, loaded(oracle, layout, **{name: float(strength)}))
    assert_agree(found, oracle.reference[f"lora/forward/out_{FILES[name]}_{strength}"], 1e-4)


def test_oracle_two_at_once(oracle):
    model = loaded(oracle, LAYOUTS[0], peft_diffusers=0.7, peft_diffusers_alpha8=-0.4)
    assert_agree(forward(oracle, model), oracle.reference["lora/forward/out_two_0.7_-0.4"], 1e-4)


@pytest.mark.parametrize("strength", ["1", "0.5"])
def test_oracle_pipeline(oracle, strength):
    case = f"lora/dpm20_peft_diffusers_{strength}"
    model = loaded(oracle, LAYOUTS[1], peft_diffusers=float(strength))
    prompts = {name: oracle.reference[f"sana/conditioning/in_{name}"][None] for name in ("positive", "negative")}
    cond, uncond = ((states, torch.ones(states.shape[:2], dtype=torch.bool)) for states in prompts.values())
    denoise = make_denoiser(model, cond, uncond, guidance_scale=4.5, truncate_timestep=True)
    with torch.no_grad():
        found = sample_flow_dpm(denoise, oracle.reference[f"{case}/in_latents"], flow_dpm_sigmas(20, 3.0))
    assert_agree(found, oracle.reference[f"{case}/latents"], 1e-3)
