"""What the autoencoder is trained for."""

import pytest
import tiny
import torch

from tools.nano.autoencoder_losses import LATENT_STD, autoencoder_losses, latent_penalty, picture_loss, psnr
from tools.nano.initial import initial_autoencoder


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_latent_penalty_is_least_at_the_published_scale():
    latent = noise(64, 32, 4, 4)
    at = {factor: latent_penalty(factor * LATENT_STD * latent).item() for factor in (0.5, 1.0, 2.0)}
    assert at[1.0] < 0.01 < 0.1 < min(at[0.5], at[2.0])
    assert latent_penalty(LATENT_STD * (latent + 1)).item() > 0.5  # a mean that is not zero


def test_the_picture_loss_is_zero_for_the_picture_and_grows_with_the_error():
    picture, error = noise(2, 3, 32, 32), noise(2, 3, 32, 32, seed=1)
    assert picture_loss(picture, picture).item() == 0
    assert 0 < picture_loss(picture + 0.1 * error, picture) < picture_loss(picture + 0.2 * error, picture)


def test_psnr_of_a_known_error():
    wanted = torch.zeros(2, 3, 8, 8)
    assert psnr(wanted + torch.tensor([0.2, 0.02])[:, None, None, None], wanted).tolist() == pytest.approx(
        [20.0, 40.0], abs=1e-4
    )


def test_with_a_fixed_encoder_only_the_decoder_learns():
    model = initial_autoencoder(tiny.autoencoder_config(), 0)
    model.encoder.requires_grad_(False)
    losses = autoencoder_losses(model, noise(1, 3, 32, 32), torch.Generator().manual_seed(0), decoder_only=True)
    assert set(losses) == {"picture"}
    losses["picture"].backward()
    assert all(parameter.grad is None for parameter in model.encoder.parameters())
    assert all(parameter.grad is not None for parameter in model.decoder.parameters())


def test_the_decoder_learns_from_noisy_latents():
    model, image = initial_autoencoder(tiny.autoencoder_config(), 0), noise(1, 3, 32, 32)
    seeds = (0, 0, 1)
    losses = [
        autoencoder_losses(model, image, torch.Generator().manual_seed(seed), decoder_only=False) for seed in seeds
    ]
    assert losses[0]["picture"] == losses[1]["picture"] != losses[2]["picture"]
    assert losses[0]["latent"] == losses[2]["latent"]
