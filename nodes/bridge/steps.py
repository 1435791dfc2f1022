"""Where in the sampling a step is, read without waiting for the GPU where that is possible.

A number read off a GPU tensor makes the host wait until all queued work is done. The solvers of this pack know the
noise level of each step as a Python number and hand it on in `transformer_options`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...sana_core.errors import InputError
from .transformer import with_option

SIGMA = "sana_sigma"
"""Key in transformer_options: the noise level of the step, a float, where the solver knows it as one."""


def at_sigma(model_options: dict[str, Any], sigma: float) -> dict[str, Any]:
    """A copy of `model_options` for a step at the noise level `sigma`."""
    return with_option(model_options, SIGMA, sigma)


def step_sigma(sigma: Tensor, transformer_options: Mapping[str, Any]) -> float:
    """Noise level of a step as a number. sigma: (B,), all alike; read only where no solver has handed the number on."""
    known = transformer_options.get(SIGMA)
    return sigma[0].item() if known is None else known


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A part of the sampling, from `start` to `end` of it (0 to 1)."""

    start: float
    end: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.start <= self.end <= 1.0:
            raise InputError(
                f"the interval begins at {self.start} and ends at {self.end}: expected 0 <= start <= end <= 1"
            )

    def holds(self, model: Any, sigma: Tensor, transformer_options: Mapping[str, Any]) -> bool:
        """Does a step at `sigma` (B,) lie in it? The limits belong to it."""
        if (self.start, self.end) == (0.0, 1.0):
            return True
        sampling = model.model_sampling
        low, high = sampling.percent_to_sigma(self.end), sampling.percent_to_sigma(self.start)
        return low <= step_sigma(sigma, transformer_options) <= high
