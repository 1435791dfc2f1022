"""Training of DC-AE f32 (arXiv:2410.10733) for latent diffusion."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sana_core.dcae.autoencoder import DCAE
from sana_core.geometry import DC_AE_F32

LATENT_STD = 1 / DC_AE_F32.scaling_factor  # deviation of raw latents that the published scale factor turns into 1
LARGEST_NOISE = 0.33  # on the latents the decoder learns from, in LATENT_STD: what a transformer draws is never exact
SCALES = 3  # of the picture loss


def picture_loss(output: Tensor, target: Tensor) -> Tensor:
    """L1 at three resolutions, L1 of the differences between neighbours, which keeps edges sharp, and squared error; a
    scalar.

    output, target: (B, 3, H, W) in -1..1, H and W divisible by 4.
    """
    loss = 2 * F.mse_loss(output, target)
    for _ in range(SCALES):
        error = output - target
        loss = loss + error.abs().mean() + (error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()) / 2
        output, target = F.avg_pool2d(output, 2), F.avg_pool2d(target, 2)
    return loss


def latent_penalty(latent: Tensor) -> Tensor:
    """Pulls every channel's mean to 0 and deviation to LATENT_STD; without it raw latents drift to deviations in the
    hundreds.

    latent: raw, (B, 32, h, w) -> a scalar, 0 at the published scale.
    """
    unit = latent.float() / LATENT_STD
    mean, power = unit.mean(dim=(0, 2, 3)), unit.square().mean(dim=(0, 2, 3))
    return mean.square().mean() + (power + 1e-4).log().square().mean()


def autoencoder_losses(
    model: DCAE, images: Tensor, generator: torch.Generator, *, decoder_only: bool
) -> dict[str, Tensor]:
    """ "picture" and, unless the encoder is fixed, "latent". The decoder sees latents with noise of random strength.

    images: (B, 3, H, W) in -1..1, on the generator's device.
    """
    with torch.set_grad_enabled(not decoder_only):
        latent = model.encoder(images)
    strength = torch.rand(len(images), 1, 1, 1, generator=generator, device=images.device) * (
        LARGEST_NOISE * LATENT_STD
    )
    noise = torch.randn(latent.shape, generator=generator, device=images.device)
    losses = {"picture": picture_loss(model.decoder(latent + strength * noise).float(), images)}
    return losses if decoder_only else losses | {"latent": latent_penalty(latent)}


@torch.no_grad()
def reconstruct(model: DCAE, images: Tensor, *, batch: int = 64) -> Tensor:
    """Pictures (B, 3, H, W) in -1..1 through encoder and decoder, clamped."""
    return torch.cat([model.decode(model.encode(part)) for part in images.split(batch)]).clamp(-1, 1)


def psnr(found: Tensor, wanted: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each of (B, 3, H, W) in -1..1 -> (B,)."""
    error = (found - wanted).square().mean(dim=(1, 2, 3)) / 4  # of pixels in 0..1
    return -10 * error.clamp(min=1e-10).log10()
