"""What DC-AE must do whatever its weights are."""

import pytest
import tiny
import torch

from sana_core.dcae.doubling import spread_channels
from sana_core.dcae.layers import Downsample, InterpolateUpsample, RMSNorm2d
from sana_core.errors import InputError
from sana_core.kit import Kit


@pytest.mark.parametrize("lite", [False, True])
def test_shapes_and_scale(lite):
    model = tiny.autoencoder(lite=lite)
    image = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latent = model.encode(image)
    assert latent.shape == (2, 32, 2, 3)
    torch.testing.assert_close(latent, model.encoder(image) * 0.41407)
    assert model.decode(latent).shape == image.shape
    torch.testing.assert_close(model.decode(latent), model.decoder(model.encoder(image)), rtol=1e-4, atol=1e-4)


def test_items_of_a_batch_do_not_see_one_another():
    model = tiny.autoencoder()
    latent = torch.randn(2, 32, 3, 5, generator=torch.Generator().manual_seed(1))
    whole = model.decode(latent)
    for i in range(2):
        torch.testing.assert_close(model.decode(latent[i : i + 1])[0], whole[i], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 3, 63, 64), (1, 3, 64, 70), (1, 4, 64, 64), (3, 64, 64), (1, 3, 0, 64)])
def test_pictures_it_cannot_encode(shape):
    with pytest.raises(InputError, match="positive and divisible by 32"):
        tiny.autoencoder().encode(torch.zeros(shape))


def test_latents_of_another_vae():
    with pytest.raises(InputError, match="another model"):
        tiny.autoencoder().decode(torch.zeros(1, 16, 8, 8))


def test_shortcuts_keep_the_mean():
    """With convolutions of zero, down- and upsampling are averages and copies: a constant stays a constant."""
    x = torch.full((1, 8, 4, 4), 3.0)
    for layer, shape in (
        (Downsample(8, 16, Kit()), (1, 16, 2, 2)),
        (InterpolateUpsample(8, 4, Kit()), (1, 4, 8, 8)),
    ):
        torch.nn.init.zeros_(layer.conv.weight)
        torch.nn.init.zeros_(layer.conv.bias)
        assert torch.equal(layer(x), torch.full(shape, 3.0))


def test_channel_to_space_places_channels():
    x = torch.arange(4.0).reshape(1, 4, 1, 1)
    phases = [torch.zeros(1, 2, 1, 1)] * 4
    assert spread_channels(phases, x).tolist() == [[[[0, 0], [1, 1]], [[2, 2], [3, 3]]]]


def test_norm_is_computed_in_float32():
    norm = RMSNorm2d(64, Kit()).to(torch.float16)
    x = torch.full((1, 64, 1, 1), 1e4, dtype=torch.float16)  # its square leaves the range of float16
    assert torch.equal(norm(x), torch.ones_like(x))


def test_bfloat16_stays_near():
    latent = torch.randn(1, 32, 3, 3, generator=torch.Generator().manual_seed(2))
    exact = tiny.autoencoder().decode(latent)
    error = tiny.autoencoder().to(torch.bfloat16).decode(latent.bfloat16()).float() - exact
    assert error.square().mean().sqrt() < 0.05 * exact.square().mean().sqrt()
