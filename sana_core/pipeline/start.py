"""What a run starts from: noise, or a picture of which a share is redrawn; and the noise of its steps."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import torch
from torch import Tensor

from ..config import SamplingDefaults
from ..errors import InputError
from ..latents import latent_size, noise, noises
from ..pictures.images import Picture, mask_latents
from ..samplers.flow_euler import Denoise
from ..samplers.methods import SAMPLERS
from ..samplers.schedules import FIRST_TIME, check_strength

REDRAWN = 0.6  # strength of img2img where none is given; with a mask everything under it is redrawn


def start_noise(
    channels: int, settings: SamplingDefaults, batch: int, seed: int, latents: Tensor | None = None
) -> Tensor:
    """`latents`, or the noise of a seed, (batch, channels, h, w). Raises InputError for latents of another shape."""
    shape = (batch, channels, *latent_size(settings.width, settings.height))
    if latents is None:
        return noise(shape, seed)
    if tuple(latents.shape) != shape:
        size = f"{settings.width} x {settings.height}"
        raise InputError(f"latents of shape {tuple(latents.shape)}, expected {shape} for {batch} pictures of {size}")
    return latents


def redrawn_share(image: object | None, strength: float | None, mask: object | None) -> float | None:
    """How much of a start picture is redrawn: as given, else 0.6 of it, or all that a mask covers; None without a
    picture.

    Raises InputError for a strength outside (0, 1], and for a strength or a mask without a picture.
    """
    if image is None:
        if strength is not None or mask is not None:
            raise InputError("strength and mask say how to redraw a picture: give the picture, too, as image")
        return None
    share = strength if strength is not None else REDRAWN if mask is None else 1.0
    check_strength(share)
    return share


def start_from_picture(
    x: Tensor, denoise: Denoise, original: Tensor, mask: Picture | None, settings: SamplingDefaults, sigma: float
) -> tuple[Tensor, Denoise]:
    """Noise x (B, 32, h, w) and a denoiser -> the picture at noise level sigma, and a denoiser that keeps what lies
    outside the mask.

    Outside, the model sees the picture under the same noise in every step, as in ComfyUI. The first level of SANA's
    grids counts as pure noise, which it is but for 1/3000. original: the picture's latent, (B or 1, 32, h, w). Raises
    InputError for another number of pictures.
    """
    if len(original) not in (1, len(x)):
        raise InputError(f"{len(original)} start pictures for {len(x)} pictures: give one for all, or one for each")
    drawn = x

    def picture(sigma: float) -> Tensor:
        return drawn if sigma >= FIRST_TIME else sigma * drawn + (1.0 - sigma) * original

    if mask is None:
        return picture(sigma), denoise
    redrawn = mask_latents(mask, settings.width, settings.height).to(x)
    if len(redrawn) not in (1, len(x)):
        raise InputError(f"{len(redrawn)} masks for {len(x)} pictures: give one for all, or one for each")
    return picture(sigma), lambda x, sigma: torch.lerp(
        original, denoise(torch.lerp(picture(sigma), x, redrawn), sigma), redrawn
    )


def step_noises(sampler: str, x: Tensor, count: int, seed: int, given: Tensor | None) -> dict[str, Iterable[Tensor]]:
    """The further argument of a solver that adds noise to x in `count` of its steps, which is all but the last:
    `step_noise` as given, or drawn from the seed after the first noise; none for the other solvers. Raises InputError
    for noise of another shape, or without use.
    """
    if not SAMPLERS[sampler].step_noise:
        if given is not None:
            raise InputError(
                f"step_noise is given, and {sampler} adds none in its steps: leave it out, or choose scm with a Sprint "
                "model"
            )
        return {}
    if given is None:
        return {"step_noise": islice(noises(x.shape, seed), 1, None)}
    if given.shape[1:] != x.shape or len(given) < count:
        raise InputError(
            f"step_noise of shape {tuple(given.shape)}, expected {(count, *x.shape)}, one noise for each step but the "
            "last"
        )
    return {"step_noise": given}
