"""The residual stream of the Linear DiT: gated updates, and the modulated norm before each layer (AdaLN-single)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

NORM_EPS = 1e-6


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer norm of tokens (B, N, C) without weights (eps 1e-6), then x * (1 + scale) + shift.

    shift, scale: (B, 1, C); of one row for all of a batch too.
    """
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=NORM_EPS), 1 + scale)


def gated_residual(x: Tensor, update: Tensor, gate: Tensor | None = None, limit: float | None = None) -> Tensor:
    """x + gate * update for tokens (B, N, C).  gate: (B, 1, C), None for 1.  limit: clamps the update to +-limit."""
    if limit is not None:
        update = update.clamp(-limit, limit)
    return x + update if gate is None else torch.addcmul(x, gate, update)


def gated_residual_norm(
    x: Tensor, update: Tensor, gate: Tensor | None, limit: float | None, shift: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """`gated_residual`, and the `modulated_norm` of it: both (B, N, C)."""
    x = gated_residual(x, update, gate, limit)
    return x, modulated_norm(x, shift, scale)
