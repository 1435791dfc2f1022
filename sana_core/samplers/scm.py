"""SCM: the few-step consistency sampler of SANA-Sprint."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from .types import Denoise, StepCallback, steps


def sample_scm(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    *,
    step_noise: Iterable[Tensor] = (),
    callback: StepCallback | None = None,
) -> Tensor:
    """Multistep consistency sampling (sCM, arXiv:2410.11081, sec. 2; SANA-Sprint, arXiv:2503.09641): predict x0, add
    fresh noise, repeat.

    Arguments and result as in `Solver`. step_noise: one for each step that does not end at 0.

    The papers write x_t = cos t * x0 + sin t * noise at data deviation 0.5. Divided by 0.5 * (cos t + sin t) that is
    flow matching with sigma = sin t / (cos t + sin t), in which all their changes of variables cancel.
    """
    draws = iter(step_noise)
    for index, sigma, lower in steps(sigmas):
        x0 = denoise(x, sigma)
        x = torch.lerp(x0, next(draws).to(x0), lower) if lower > 0 else x0
        if callback is not None:
            callback(index, sigma, x, x0)
    return x
