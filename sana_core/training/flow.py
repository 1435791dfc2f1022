"""Flow matching: the loss of the transformer, its ControlNets and its LoRAs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..samplers.schedules import shifted

TIMESTEPS = 1000  # the transformer's time is 1000 * t

# (noisy latents (B, 32, h, w), time (B,) in 0..1) -> velocity (B, 32, h, w)
Velocity = Callable[[Tensor, Tensor], Tensor]


def logit_normal_times(
    count: int, generator: torch.Generator, *, shift: float = 1.0, mean: float = 0.0, std: float = 1.0
) -> Tensor:
    """Random times (count,) in 0..1, 1 is noise: the sigmoid of a normal distribution (arXiv:2403.03206, sec. 3.1),
    then shifted.

    shift above 1 moves them towards noise, where the caption decides what appears; pictures of more latent cells need
    more of it.
    """
    time = (mean + std * torch.randn(count, generator=generator, device=generator.device)).sigmoid()
    return shifted(time, shift)


def noisy(x0: Tensor, noise: Tensor, time: Tensor) -> Tensor:
    """(1 - t) x0 + t noise; x0, noise: (B, 32, h, w); time: (B,)."""
    return torch.lerp(x0, noise, time.to(x0)[:, None, None, None])


def flow_matching_errors(velocity: Velocity, x0: Tensor, noise: Tensor, time: Tensor) -> Tensor:
    """Mean squared error of the velocity, noise - x0, of each picture, (B,) in float32 (SANA, arXiv:2410.10629,
    sec. 4.3).

    x0, noise: (B, 32, h, w), float32; time: (B,). About 2 where the network predicts zero: unit variance of noise and
    of latents.
    """
    error = velocity(noisy(x0, noise, time), time).float() - (noise - x0)
    return error.square().flatten(1).mean(dim=1)


def flow_matching_loss(velocity: Velocity, x0: Tensor, generator: torch.Generator, *, shift: float = 1.0) -> Tensor:
    """`flow_matching_errors` at random times, their mean. x0: (B, 32, h, w), float32, on the generator's device."""
    noise = torch.randn(x0.shape, generator=generator, device=x0.device)
    time = logit_normal_times(len(x0), generator, shift=shift)
    return flow_matching_errors(velocity, x0, noise, time).mean()
