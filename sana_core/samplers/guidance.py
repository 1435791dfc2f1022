"""Guidance: how predictions for several prompts become one."""

from __future__ import annotations

from torch import Tensor


def classifier_free_guidance(cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    """Away from the unconditional prediction (arXiv:2207.12598): 1 gives cond, 0 gives uncond. Velocities or x0, any shape."""
    return uncond + scale * (cond - uncond)
