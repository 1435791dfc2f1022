"""Flow matching: the loss of the transformer, its ControlNets and its LoRAs."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..samplers.schedules import shifted

TIMESTEPS = 1000  # the transformer's time is 1000 * t

# (noisy latents (B, 32, h, w), time (B,) in 0..1) -> velocity (B, 32, h, w)
Velocity = Callable[[Tensor, Tensor], Tensor]


def logit_normal_times(count: int, generator: torch.Generator, *, shift: float = 1.0) -> Tensor:
    """Random times (count,) in 0..1, 1 is noise: the sigmoid of a standard normal (arXiv:2403.03206, sec. 3.1), then
    shifted.

    shift above 1 moves them towards noise, where the caption decides what appears; pictures of more latent cells need
    more of it.
    """
    time = torch.randn(count, generator=generator, device=generator.device).sigmoid()
    return shifted(time, shift)


def noisy(x0: Tensor, noise: Tensor, time: Tensor) -> Tensor:
    """(1 - t) x0 + t noise; x0, noise: (B, 32, h, w); time: (B,)."""
    return torch.lerp(x0, noise, time.to(x0)[:, None, None, None])


def flow_matching_loss(velocity: Velocity, x0: Tensor, generator: torch.Generator, *, shift: float = 1.0) -> Tensor:
    """Mean squared error of the velocity, noise - x0, at random times (SANA, arXiv:2410.10629, sec. 4.3); a scalar in
    float32.

    x0: (B, 32, h, w), float32, on the generator's device. About 2 where the network predicts zero: unit variance of
    noise and of latents.
    """
    noise = torch.randn(x0.shape, generator=generator, device=x0.device)
    time = logit_normal_times(len(x0), generator, shift=shift)
    return F.mse_loss(velocity(noisy(x0, noise, time), time).float(), noise - x0)
