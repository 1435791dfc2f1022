"""DC-AE against diffusers' AutoencoderDC, float32."""

import pytest
import torch
from agreement import assert_agree
from safetensors.torch import save_file

from sana_core.checkpoint.load import load_autoencoder
from sana_core.dcae.blending import decode_blended, encode_blended

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
            scale = model.geometry.scaling_factor
            given, expected = (outputs[key], expected * scale) if side == "encode" else (outputs[key] * scale, expected)
            assert_agree(run(given), expected, TOLERANCE)
            checked += 1
    assert checked >= 6


@pytest.mark.parametrize("tile", [128, 256, 512])
def test_exact_tiles_are_the_untiled_oracle(oracle, tile):
    model, outputs = load_autoencoder(oracle.fixtures / "single/vae.safetensors"), oracle.reference
    scale = model.geometry.scaling_factor
    picture = model.decode(outputs["vae/vae_decode_tiled/in_latent"] * scale, tile=tile)
    assert_agree(picture, outputs["vae/vae_decode_tiled/out_untiled"], TOLERANCE)
    latent = model.encode(outputs["vae/vae_encode_tiled/in_image"], tile=tile)
    assert_agree(latent, outputs["vae/vae_encode_tiled/out_untiled"] * scale, TOLERANCE)


@pytest.mark.parametrize("side, entry, tile, overlap", [
    ("decode", "out", 512, 64), ("decode", "out_tile256_stride192", 256, 64), ("encode", "out", 512, 64),
])  # fmt: skip
def test_blended_tiles_oracle(oracle, side, entry, tile, overlap):
    model, outputs = load_autoencoder(oracle.fixtures / "single/vae.safetensors"), oracle.reference
    if side == "decode":
        result = decode_blended(model.decoder, outputs["vae/vae_decode_tiled/in_latent"], tile=tile, overlap=overlap)
    else:
        result = encode_blended(model.encoder, outputs["vae/vae_encode_tiled/in_image"], tile=tile, overlap=overlap)
    expected = outputs[f"vae/vae_{side}_tiled/{entry}"]
    assert_agree(result, expected, TOLERANCE)
    untiled = outputs[f"vae/vae_{side}_tiled/out_untiled"]
    assert (untiled - expected).abs().max() > 100 * (result - expected).abs().max()


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
        downsample_block_type="Conv", decoder_norm_types="rms_norm", decoder_act_fns="silu",
        scaling_factor=0.41407, **decoder,
    ).eval()  # fmt: skip
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    save_file(theirs.state_dict(), tmp_path / "m.safetensors")
    ours, image, latent = (
        load_autoencoder(tmp_path / "m.safetensors"),
        torch.rand(1, 3, 96, 64) * 2 - 1,
        torch.randn(1, 32, 3, 2),
    )
    with torch.no_grad():
        assert_agree(ours.encoder(image), theirs.encode(image).latent, TOLERANCE)
        assert_agree(ours.decoder(latent), theirs.decode(latent).sample, TOLERANCE)
