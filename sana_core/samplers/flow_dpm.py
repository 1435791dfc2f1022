"""Flow-DPM-Solver++ 2M: the second-order multistep solver SANA was released with."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from .types import Denoise, StepCallback, steps


def sample_flow_dpm(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    step_noise: Iterable[Tensor] = (),
    callback: StepCallback | None = None,
) -> Tensor:
    """DPM-Solver++ 2M, midpoint (arXiv:2211.01095, algorithm 2), for flow matching (SANA, arXiv:2410.10629, sec. 4.3).

    Arguments and result as in `Solver`; draws no noise.

    With alpha = 1 - sigma the paper's coefficients sigma_t / sigma_s and -alpha_t * expm1(-h) are r and 1 - r with r =
    sigma_t / sigma_s. A step is a straight line towards x0; the second order replaces x0 by its extrapolation to the
    middle of the step in lambda = log(alpha / sigma). The first step, and a step to 0 (h is infinite), are of first
    order. After a step from sigma = 1 (h is infinite too) the previous x0 has no weight. A step between equal sigmas
    (h is 0) changes nothing and is not remembered.
    """
    previous, h_previous = None, math.inf
    for index, sigma, lower in steps(sigmas):
        x0 = denoise(x, sigma)
        h = half_log_snr(lower) - half_log_snr(sigma)
        target = x0
        if previous is not None and lower > 0:
            target = torch.lerp(previous, x0, 1.0 + 0.5 * h / h_previous)
        x = torch.lerp(target, x, lower / sigma)
        if lower < sigma:
            previous, h_previous = x0, h
        if callback is not None:
            callback(index, sigma, x, x0)
    return x


def half_log_snr(sigma: float) -> float:
    """lambda = log((1 - sigma) / sigma): -inf at 1 (pure noise), +inf at 0 (no noise)."""
    if sigma <= 0.0:
        return math.inf
    return math.log((1.0 - sigma) / sigma) if sigma < 1.0 else -math.inf
