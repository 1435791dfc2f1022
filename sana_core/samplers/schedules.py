"""Noise levels (sigmas) of flow matching: x = sigma * noise + (1 - sigma) * x0, from about 1 down to 0.

A grid for N steps holds N + 1 sigmas in descending order, float32, computed in float64; the last is 0. `shift` moves
the grid towards high noise, which larger pictures need: 3 for SANA up to 2K, 6 for 4K. All grids are made on the CPU.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import InputError

FIRST_TIME = 0.999  # the solver's grid leaves out pure noise: 1 - 1/1000
EULER_LAST_TIME = 0.001  # 1/1000, the first of the 1000 training timesteps
MOST_STEPS = 10_000
SCM_FIRST_ANGLE, SCM_MIDDLE_ANGLE = 1.57080, 1.3  # radians; Sprint's angles of two steps are 1.5708, 1.3, 0


def shifted(time: Tensor, shift: float) -> Tensor:
    """Times in 0..1, moved towards 1 (pure noise) by a flow shift above 1 (SD3, arXiv:2403.03206, sec. 5.3.2)."""
    return shift * time / (1.0 + (shift - 1.0) * time)


def flow_dpm_sigmas(steps: int, shift: float) -> Tensor:
    """Grid of Flow-DPM-Solver++ as released: N + 1 even times from 0.999 to 0, then shifted (SANA, arXiv:2410.10629,
    sec. 4.3).

    Starts at 0.999666 for shift 3. Returns (steps + 1,). Raises InputError for steps < 1 or shift <= 0.
    """
    _check(steps, shift)
    return shifted(torch.linspace(FIRST_TIME, 0.0, steps + 1, dtype=torch.float64, device="cpu"), shift).float()


def flow_euler_sigmas(steps: int, shift: float) -> Tensor:
    """Grid of the Flow-Euler sampler as released: it starts at exactly 1 and is shifted twice at its low end.

    Its last time is the shifted 1/1000 and is shifted again with the rest (diffusers,
    scheduling_flow_match_euler_discrete.py). Returns (steps + 1,). Raises InputError for steps < 1 or shift <= 0.
    """
    _check(steps, shift)
    last = shifted(torch.tensor(EULER_LAST_TIME, dtype=torch.float64, device="cpu"), shift).item()
    times = torch.linspace(1.0, last, steps, dtype=torch.float64, device="cpu")
    return torch.cat([shifted(times, shift), times.new_zeros(1)]).float()


def scm_sigmas(steps: int) -> Tensor:
    """Grid of SANA-Sprint (arXiv:2503.09641): even angles from pi/2 to 0, except for two steps, whose middle was
    searched.

    1, 0.7827, 0 for two steps. Returns (steps + 1,). Raises InputError for steps < 1.
    """
    _check(steps, 1.0, usual="1 to 4 for Sprint")
    if steps == 2:
        return angle_sigmas(torch.tensor([SCM_FIRST_ANGLE, SCM_MIDDLE_ANGLE, 0.0], dtype=torch.float64, device="cpu"))
    return angle_sigmas(torch.linspace(SCM_FIRST_ANGLE, 0.0, steps + 1, dtype=torch.float64, device="cpu"))


def angle_sigmas(angles: Tensor) -> Tensor:
    """Noise levels of TrigFlow, x = cos(t) * x0 + sin(t) * noise, in flow matching: sin t / (sin t + cos t), float32.

    The released 1.57080 lies beyond pi/2 by 4e-6; what is noisier than pure noise counts as that, 1.
    """
    sine, cosine = angles.sin(), angles.cos()
    return (sine / (sine + cosine)).clamp(max=1.0).float()


def check_strength(strength: float) -> None:
    """Raise InputError for a strength outside (0, 1]."""
    if not 0.0 < strength <= 1.0:
        raise InputError(f"strength must be above 0 and at most 1, got {strength}")


def img2img_tail(sigmas: Tensor, strength: float) -> Tensor:
    """The end of a grid of N steps that redraws `strength` of a picture: strength 1 keeps all steps, 0.5 half of them,
    rounded up.

    Raises InputError for a strength outside (0, 1].
    """
    check_strength(strength)
    steps = len(sigmas) - 1
    return sigmas[int(steps - steps * strength) :]


def scm_tail(sigmas: Tensor, strength: float) -> Tensor:
    """Like `img2img_tail`, but the first step begins between two levels of the grid if N * strength is no whole number.

    Rounding up would start two steps at pure noise for any strength above 0.5 and lose the picture. (Multistep solvers
    cannot do this: an unusually short first step would spoil the second.)
    """
    check_strength(strength)
    steps = len(sigmas) - 1
    position = round(steps * (1.0 - strength), 6)  # of the start on the grid, in steps; rounded, as 1 - 0.9 is not 0.1
    whole = min(int(position), steps - 1)
    tail = sigmas[whole:].clone()
    tail[0] = torch.lerp(sigmas[whole], sigmas[whole + 1], min(position - whole, 0.999999))
    return tail


def _check(steps: int, shift: float, usual: str = "14 to 20") -> None:
    if steps < 1:
        raise InputError(f"sampling takes at least one step, got {steps}: choose {usual}")
    if steps > MOST_STEPS:
        raise InputError(f"sampling takes at most {MOST_STEPS} steps: choose {usual}")
    if not shift > 0:
        raise InputError(f"the flow shift must be above 0, got {shift}: SANA was released with 3, its 4K model with 6")
