"""LoRA against diffusers and PEFT, float32: the oracle's files on every layout of the model, and every kind of adapter
that PEFT makes.
"""

import pytest
import torch
from agreement import assert_agree
from safetensors.torch import save_file

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


TARGETS = ["to_q", "to_v", "to_out.0", "patch_embed.proj", "ff.conv_inverted", "proj_out"]
KINDS = {
    "LoRA": lambda peft: peft.LoraConfig(r=4, lora_alpha=6, target_modules=TARGETS, init_lora_weights=False),
    "patterns": lambda peft: peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=TARGETS, init_lora_weights=False,
        rank_pattern={"attn1.to_q": 8}, alpha_pattern={"attn1.to_q": 3, "proj_out": 1},
    ),
    "rsLoRA": lambda peft: peft.LoraConfig(r=4, lora_alpha=6, target_modules=TARGETS, init_lora_weights=False, use_rslora=True),
    "DoRA": lambda peft: peft.LoraConfig(r=4, lora_alpha=6, target_modules=TARGETS, init_lora_weights=False, use_dora=True),
    "LoHa": lambda peft: peft.LoHaConfig(r=4, alpha=6, target_modules=TARGETS, init_weights=False),
    "LoKr": lambda peft: peft.LoKrConfig(r=4, alpha=6, target_modules=TARGETS, init_weights=False),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_peft_saves(tmp_path, kind):
    diffusers = pytest.importorskip(
        "diffusers", reason="diffusers' transformer is the reference these tests compare with"
    )
    peft = pytest.importorskip("peft", reason="PEFT's adapters are the reference these tests compare with")
    torch.manual_seed(3)
    theirs = diffusers.SanaTransformer2DModel(
        num_attention_heads=7, attention_head_dim=32, num_cross_attention_heads=2, cross_attention_head_dim=112, cross_attention_dim=224,
        caption_channels=96, num_layers=2, sample_size=32,
    ).eval()  # fmt: skip
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    adapted = peft.get_peft_model(theirs, KINDS[kind](peft))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if any(mark in name for mark in ("lora_", "hada_", "lokr_")):
                parameter.copy_(
                    torch.randn_like(parameter) * (0.3 if "hada_" in name else 0.1) + ("magnitude" in name) * parameter
                )
    adapted.save_pretrained(tmp_path / "adapter")
    latent, text, timestep = torch.randn(2, 32, 6, 10), torch.randn(2, 9, 96), torch.tensor([999.0, 13.0])
    ours = load_transformer(tmp_path / "model.safetensors")
    with torch.no_grad():
        expected = adapted(latent, text, timestep, return_dict=False)[0]
        plain = ours(latent, timestep, text)
        report = apply_lora(ours, load_lora(tmp_path / "adapter"))
        assert report.unmatched == ()
        assert_agree(ours(latent, timestep, text), expected, 1e-4)
        assert (plain - expected).abs().max() > 0.1 * expected.abs().max()
