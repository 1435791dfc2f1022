"""The host's view of SANA latents."""

import latent_preview
import torch
from agreement import assert_agree
from sana_pack.nodes.bridge import latent_format


def test_scale():
    sana = latent_format.SanaLatent()
    raw = torch.randn(1, 32, 2, 2)
    assert_agree(sana.process_in(raw), raw * 0.41407, 1e-6)
    assert_agree(sana.process_out(sana.process_in(raw)), raw, 1e-6)
    assert (sana.latent_channels, sana.spacial_downscale_ratio) == (32, 32)


def test_preview_shows_where_something_is():
    sana = latent_format.SanaLatent()
    latent = torch.zeros(1, 32, 6, 8)
    latent[:, :, 2:4, 3:5] = torch.randn(1, 32, 1, 1)
    previewer = latent_preview.Latent2RGBPreviewer(sana.latent_rgb_factors, None, sana.latent_rgb_factors_reshape)
    picture = previewer.decode_latent_to_preview(latent)
    assert picture.size == (8, 6)
    assert picture.getpixel((3, 2)) == (255, 255, 255) and picture.getpixel((0, 0)) == (0, 0, 0)


def test_preview_of_nothing_is_finite():
    assert torch.isfinite(latent_format.structure(torch.zeros(2, 32, 3, 3))).all()
