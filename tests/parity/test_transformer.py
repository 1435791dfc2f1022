"""The Linear DiT against diffusers' SanaTransformer2DModel, float32."""

import pytest
import torch
from agreement import assert_agree
from safetensors.torch import save_file

from sana_core.checkpoint.load import load_transformer

TOLERANCE = 1e-4
FOLDERS = {
    "sana": "sana",
    "sana06": "sana06_euler",
    "sana15": "sana15",
    "sprint": "sprint",
    "sana2k": "sana2k",
    "sana4k": "sana4k",
}
VARIANT = {"sana2k": "2k", "sana4k": "4k"}  # single diffusers files do not tell it
LAYOUTS = {
    "single file": "single/transformer_{name}.safetensors",
    "original": "original/{name}.pth",
    "folder": "pipelines/{folder}/transformer",
}


def call(model, latent, timestep, text, mask, guidance):
    """Our call for diffusers' arguments: Sprint's timestep is 0..1 there and its guidance has the factor 0.1."""
    scm = model.config.guidance_embed
    mask = None if mask is None else mask.bool()
    guidance = None if guidance is None else guidance * 10
    return model(latent, timestep * (1000 if scm else 1), text, mask, guidance=guidance)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", FOLDERS)
def test_oracle(oracle, name, layout):
    path = oracle.fixtures / LAYOUTS[layout].format(name=name, folder=FOLDERS[name])
    model = load_transformer(path, variant=VARIANT.get(name) if layout == "single file" else None)
    cases = {key.rsplit("/", 1)[0] for key in oracle.reference if key.startswith(f"transformer/{name}_")}
    assert len(cases) >= 4
    for case in cases:
        latent, timestep, text, mask, guidance = (
            oracle.reference.get(f"{case}/{key}")
            for key in ("in_latent", "in_timestep", "in_text", "mask", "in_guidance")
        )
        assert_agree(call(model, latent, timestep, text, mask, guidance), oracle.reference[f"{case}/out"], TOLERANCE)


CONFIGS = {
    "sana": {},
    "qk norm": {"qk_norm": "rms_norm_across_heads"},
    "sprint": {"qk_norm": "rms_norm_across_heads", "guidance_embeds": True, "guidance_embeds_scale": 0.1},
    "2k": {"sample_size": 64, "interpolation_scale": 1.0},
    "4k": {"sample_size": 128, "interpolation_scale": 2.0},
}


@pytest.mark.parametrize("seed", [11, 12])
@pytest.mark.parametrize("name", CONFIGS)
def test_other_seeds(tmp_path, name, seed):
    diffusers = pytest.importorskip("diffusers", reason="diffusers is the reference these tests compare with")
    torch.manual_seed(seed)
    theirs = diffusers.SanaTransformer2DModel(
        num_attention_heads=7, attention_head_dim=32, num_cross_attention_heads=2, cross_attention_head_dim=112,
        cross_attention_dim=224, caption_channels=96, num_layers=2, **{"sample_size": 32, **CONFIGS[name]},
    ).eval()  # fmt: skip
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    save_file(theirs.state_dict(), tmp_path / "m.safetensors")
    ours = load_transformer(tmp_path / "m.safetensors", variant={"2k": "2k", "4k": "4k"}.get(name))
    latent, text = torch.randn(2, 32, 6, 10), torch.randn(2, 9, 96)
    mask = torch.tensor([[1] * 9, [1] * 4 + [0] * 5])
    scm = ours.config.guidance_embed
    timestep, guidance = (
        (torch.tensor([0.97, 0.3]), torch.tensor([0.45, 0.1])) if scm else (torch.tensor([999.0, 13.5]), None)
    )
    extra = {"guidance": guidance} if scm else {}
    with torch.no_grad():
        expected = theirs(latent, text, timestep, encoder_attention_mask=mask, return_dict=False, **extra)[0]
    assert_agree(call(ours, latent, timestep, text, mask, guidance), expected, TOLERANCE)
