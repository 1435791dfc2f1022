"""Blended tiles; their agreement with diffusers is in tests/parity."""

import pytest
import tiny
import torch

from sana_core.dcae.blending import decode_blended, encode_blended
from sana_core.errors import InputError


def latents(height, width, batch=1):
    return torch.randn(batch, 32, height, width, generator=torch.Generator().manual_seed(6))


@pytest.mark.parametrize("cells", [(4, 4), (2, 3)])
def test_what_fits_into_a_tile_is_decoded_at_once(cells):
    model, latent = tiny.autoencoder(), latents(*cells, batch=2)
    picture = decode_blended(model.decoder, latent, tile=128, overlap=32)
    # differences of 4e-6 were measured
    torch.testing.assert_close(picture, model.decoder(latent), rtol=1e-4, atol=4e-5)
    torch.testing.assert_close(
        encode_blended(model.encoder, picture, tile=128, overlap=32), model.encoder(picture), rtol=1e-4, atol=4e-5
    )


def test_without_overlap_the_tiles_stand_side_by_side():
    model, latent, calls = tiny.autoencoder(), latents(4, 7), []
    picture = decode_blended(model.decoder, latent, tile=128, overlap=0, on_tile=lambda *call: calls.append(call))
    expected = torch.cat([model.decoder(latent[..., :4]), model.decoder(latent[..., 4:])], dim=-1)
    torch.testing.assert_close(picture, expected, rtol=1e-4, atol=1e-5)
    assert calls == [(1, 2), (2, 2)]


def test_the_overlap_fades_from_one_tile_to_the_next():
    model, latent = tiny.autoencoder(), latents(3, 6)
    out = torch.empty(1, 3, 96, 192, dtype=torch.float64)
    assert decode_blended(model.decoder, latent, tile=128, overlap=32, out=out) is out
    left, right = model.decoder(latent[..., :4]), model.decoder(latent[..., 3:])
    fade = torch.arange(32) / 32
    middle = left[..., 96:] * (1 - fade) + right[..., :32] * fade
    expected = torch.cat([left[..., :96], middle, right[..., 32:]], dim=-1)
    torch.testing.assert_close(out.float(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "tile, overlap, said",
    [(100, 0, "tile size 100"), (128, 128, "overlap 128"), (256, -32, "overlap -32"), (256, 40, "overlap 40")],
)
def test_tiles_that_cannot_be(tile, overlap, said):
    with pytest.raises(InputError, match=f"{said}, expected a multiple of 32"):
        decode_blended(tiny.autoencoder().decoder, latents(2, 2), tile=tile, overlap=overlap)
