"""Noise levels (sigmas) of flow matching: x = sigma * noise + (1 - sigma) * x0, from about 1 down to 0.

A grid for N steps holds N + 1 sigmas in descending order, float32, computed in float64; the last is 0. `shift` moves the grid towards
high noise, which larger pictures need: 3 for SANA up to 2K, 6 for 4K.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import InputError

FIRST_TIME = 0.999  # the solver's grid leaves out pure noise: 1 - 1/1000
EULER_LAST_TIME = 0.001  # 1/1000, the first of the 1000 training timesteps


def flow_dpm_sigmas(steps: int, shift: float) -> Tensor:
    """Grid of Flow-DPM-Solver++ as released: N + 1 even times from 0.999 to 0, then shifted (SANA, arXiv:2410.10629, sec. 4.3).

    Starts at 0.999666 for shift 3. Returns (steps + 1,). Raises InputError for steps < 1 or shift <= 0.
    """
    _check(steps, shift)
    return _shifted(torch.linspace(FIRST_TIME, 0.0, steps + 1, dtype=torch.float64), shift).float()


def flow_euler_sigmas(steps: int, shift: float) -> Tensor:
    """Grid of the Flow-Euler sampler as released: it starts at exactly 1 and is shifted twice at its low end.

    Its last time is the shifted 1/1000 and is shifted again with the rest (diffusers, scheduling_flow_match_euler_discrete.py).
    Returns (steps + 1,). Raises InputError for steps < 1 or shift <= 0.
    """
    _check(steps, shift)
    last = _shifted(torch.tensor(EULER_LAST_TIME, dtype=torch.float64), shift).item()
    times = torch.linspace(1.0, last, steps, dtype=torch.float64)
    return torch.cat([_shifted(times, shift), times.new_zeros(1)]).float()


def img2img_tail(sigmas: Tensor, strength: float) -> Tensor:
    """The end of a grid of N steps that redraws `strength` of a picture: strength 1 keeps all steps, 0.5 half of them, rounded up.

    Raises InputError for a strength outside (0, 1].
    """
    if not 0.0 < strength <= 1.0:
        raise InputError(f"strength must be above 0 and at most 1, got {strength}")
    steps = len(sigmas) - 1
    return sigmas[int(steps - steps * strength) :]


def _shifted(time: Tensor, shift: float) -> Tensor:
    return shift * time / (1.0 + (shift - 1.0) * time)


def _check(steps: int, shift: float) -> None:
    if steps < 1:
        raise InputError(f"sampling takes at least one step, got {steps}: choose 14 to 20")
    if not shift > 0:
        raise InputError(f"the flow shift must be above 0, got {shift}: SANA was released with 3, its 4K model with 6")
