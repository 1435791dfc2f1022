"""Flow-Euler: the first-order solver of flow matching."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from .types import Denoise, StepCallback, steps


def sample_flow_euler(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    step_noise: Iterable[Tensor] = (),
    callback: StepCallback | None = None,
) -> Tensor:
    """Integrate dx/dsigma = (x - x0) / sigma by Euler steps. Arguments and result as in `Solver`; draws no noise.

    One step is a straight line towards x0, so a step to 0 ends exactly on it.
    """
    for index, sigma, lower in steps(sigmas):
        x0 = denoise(x, sigma)
        x = torch.lerp(x0, x, lower / sigma)
        if callback is not None:
            callback(index, sigma, x, x0)
    return x
