"""The learning rate over a training."""

from __future__ import annotations

from collections.abc import Iterable

import torch

LOWEST_FACTOR = 0.02


def rate_factor(step: int, steps: int, *, warmup: int, decay: float) -> float:
    """Factor of the learning rate at `step` of `steps`: linear warm-up over `warmup` steps, a plateau, and a linear
    fall to 2 % over the share `decay` at the end; decay 0 stays on the plateau.
    """
    risen = (step + 1) / warmup if warmup else 1.0
    left = (steps - step) / (decay * steps) if decay else 1.0
    return max(LOWEST_FACTOR, min(1.0, risen, left))


def set_rate(optimizers: Iterable[torch.optim.Optimizer], factor: float) -> None:
    """Multiply every group's own rate, its peak, by `factor`."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("peak", group["lr"]) * factor
