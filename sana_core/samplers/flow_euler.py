"""Flow-Euler: the first-order solver of flow matching."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

Denoise = Callable[[Tensor, float], Tensor]  # (x, sigma) -> x0
StepCallback = Callable[
    [int, float, Tensor, Tensor], object
]  # (step index, sigma the step began at, x after the step, predicted x0)


def sample_flow_euler(denoise: Denoise, x: Tensor, sigmas: Tensor, *, callback: StepCallback | None = None) -> Tensor:
    """Integrate dx/dsigma = (x - x0) / sigma by Euler steps.

    x: float32, any shape, at noise level sigmas[0]; sigmas: (N + 1,), descending, the last may be 0. Fewer than two
    sigmas: x comes back. One step is a straight line towards x0, so that a step to 0 ends exactly on it. Returns x at
    sigmas[-1].
    """
    for index, (sigma, lower) in enumerate(pairwise(sigmas.tolist())):
        x0 = denoise(x, sigma)
        x = torch.lerp(x0, x, lower / sigma)
        if callback is not None:
            callback(index, sigma, x, x0)
    return x
