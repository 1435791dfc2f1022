"""The samplers by name: which solver goes with which grid, and what they are for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ..config import SamplingDefaults, TransformerConfig
from ..errors import InputError
from ..presets import network_name
from .flow_dpm import sample_flow_dpm
from .flow_euler import sample_flow_euler
from .schedules import flow_dpm_sigmas, flow_euler_sigmas, img2img_tail, scm_sigmas, scm_tail
from .scm import sample_scm
from .types import Solver


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """A solver and its grid.

    sigmas: the grid for (steps, shift). tail: (grid, strength) -> the end of the grid that redraws that share of a
    picture. truncate_timestep: the model sees whole timesteps, as in the released code. step_noise: the solver adds
    noise in its steps.
    """

    sample: Solver
    sigmas: Callable[[int, float], Tensor]
    tail: Callable[[Tensor, float], Tensor] = img2img_tail
    truncate_timestep: bool = False
    step_noise: bool = False


SAMPLERS = {
    "flow_dpm": Sampler(sample=sample_flow_dpm, sigmas=flow_dpm_sigmas, truncate_timestep=True),
    "flow_euler": Sampler(sample=sample_flow_euler, sigmas=flow_euler_sigmas),
    "scm": Sampler(sample=sample_scm, sigmas=lambda steps, shift: scm_sigmas(steps), tail=scm_tail, step_noise=True),
}
SHIFT_WARNING_RATIO = 0.5  # warn at this fraction of the released shift and below


def check_name(name: str) -> None:
    """Raise InputError for an unknown name."""
    if name not in SAMPLERS:
        raise InputError(f"there is no sampler {name!r:.80}, choose one of {', '.join(SAMPLERS)}")


def check_sampler(name: str, config: TransformerConfig) -> str | None:
    """Returns a warning if the sampler does not suit the model, or None.

    Raises InputError for an unknown name, and for Sprint's sampler on a model that was not distilled for it.
    """
    check_name(name)
    if name == "scm" and not config.guidance_embed:
        raise InputError(
            "scm takes the few large steps that SANA-Sprint was distilled for, and this model is "
            f"{network_name(config)}, which gives blur or noise with them: choose flow_dpm with 14 to 20 steps, or "
            "load a Sprint model"
        )
    if name != "scm" and config.guidance_embed:
        return (
            f"{name} follows the flow of a base SANA model in many small steps, and this model is "
            f"{network_name(config)}, which was distilled to jump: choose scm with 1 to 4 steps, or load a base model"
        )
    return None


def check_shift(shift: float, released: SamplingDefaults) -> str | None:
    """A warning where the flow shift is at most half of the released one, as 3 on the 4K model, or None."""
    if shift > SHIFT_WARNING_RATIO * released.shift:
        return None
    return (
        f"flow shift {shift:g} on a SANA model of {released.width} x {released.height} pixels that was released with "
        f"{released.shift:g}: large structures will be poor; set the shift to {released.shift:g}, or take away the "
        "node or option that changes it"
    )
