"""What solvers take and call: the types that all samplers share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Protocol

from torch import Tensor

Denoise = Callable[[Tensor, float], Tensor]  # (x, sigma) -> x0
# (step index, sigma at the start of the step, x after the step, predicted x0)
StepCallback = Callable[[int, float, Tensor, Tensor], object]


class Solver(Protocol):
    """The signature of all solvers.

    denoise: the model with its prompts. x: float32, any shape, at noise level sigmas[0]. sigmas: (N + 1,), descending;
    the last may be 0. step_noise: unit-variance noise of x's shape for solvers that add noise in their steps; the
    others draw none of it. callback: called after each step.

    Returns x at sigmas[-1]. Fewer than two sigmas make no step, and x comes back.
    """

    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        sigmas: Tensor,
        *,
        step_noise: Iterable[Tensor] = (),
        callback: StepCallback | None = None,
    ) -> Tensor: ...


def steps(sigmas: Tensor) -> Iterator[tuple[int, float, float]]:
    """(index, sigma, next sigma) of every step. A step that starts at 0 is left out: x holds no noise any more.

    Grids of other tools may end in several zeros.
    """
    for index, (sigma, lower) in enumerate(pairwise(sigmas.tolist())):
        if sigma > 0.0:
            yield index, sigma, lower
