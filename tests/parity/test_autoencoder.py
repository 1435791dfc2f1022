"""DC-AE against diffusers' AutoencoderDC, float32."""

import pytest
import torch
from agreement import assert_agree
from safetensors.torch import save_file

from sana_core.checkpoint.load import load_autoencoder

TOLERANCE = 2e-4
LAYOUTS = ("single/{name}.safetensors", "original/{mit}.safetensors", "original/{mit}.pt", "vae_dirs/{name}")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["vae", "vae_lite"])
def test_oracle(oracle, name, layout):
    model = load_autoencoder(oracle.fixtures / layout.format(name=name, mit=name.replace("vae", "dcae")))
    checked = 0
    for side, entry, run in (("encode", "in_image", model.encode), ("decode", "in_latent", model.decode)):
        for key in (key for key in oracle.reference if key.startswith(f"vae/{name}_{side}_") and key.endswith(entry)):
            outputs = oracle.reference
            expected = outputs.get(key.replace(entry, "out_untiled"), outputs[key.replace(entry, "out")])
            scale = model.config.scaling_factor
            given, expected = (outputs[key], expected * scale) if side == "encode" else (outputs[key] * scale, expected)
            assert_agree(run(given), expected, TOLERANCE)
            checked += 1
    assert checked >= 6


@pytest.mark.parametrize("seed", [11, 12])
@pytest.mark.parametrize("lite", [False, True])
def test_other_seeds(tmp_path, lite, seed):
    diffusers = pytest.importorskip("diffusers", reason="diffusers is the reference these tests compare with")
    torch.manual_seed(seed)
    scales, widths = [[], [], [], [5], [5], [5]], [16, 32, 64, 64, 128, 128]
    blocks = ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3
    decoder = (
        {
            "decoder_block_types": "ResBlock",
            "decoder_layers_per_block": [0, 1, 2, 1, 1, 1],
            "decoder_qkv_multiscales": [[]] * 6,
            "upsample_block_type": "pixel_shuffle",
            "decoder_conv_act_fn": "silu",
        }
        if lite
        else {
            "decoder_block_types": blocks,
            "decoder_layers_per_block": [1, 2, 1, 1, 1, 1],
            "decoder_qkv_multiscales": scales,
            "upsample_block_type": "interpolate",
        }
    )
    theirs = diffusers.AutoencoderDC(
        latent_channels=32, attention_head_dim=32, encoder_block_types=blocks, encoder_block_out_channels=widths,
        decoder_block_out_channels=widths, encoder_layers_per_block=[1, 1, 1, 2, 1, 1], encoder_qkv_multiscales=scales,
        downsample_block_type="Conv", decoder_norm_types="rms_norm", decoder_act_fns="silu", scaling_factor=0.41407, **decoder,
    ).eval()  # fmt: skip
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    save_file(theirs.state_dict(), tmp_path / "m.safetensors")
    ours, image, latent = load_autoencoder(tmp_path / "m.safetensors"), torch.rand(1, 3, 96, 64) * 2 - 1, torch.randn(1, 32, 3, 2)
    with torch.no_grad():
        assert_agree(ours.encoder(image), theirs.encode(image).latent, TOLERANCE)
        assert_agree(ours.decoder(latent), theirs.decode(latent).sample, TOLERANCE)
