"""RMS norm over the channels of maps, as DC-AE has it behind every block."""

from __future__ import annotations

import torch
from torch import Tensor

NORM_EPS = 1e-5


def rms_norm_2d(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None = None) -> Tensor:
    """RMS normalisation of maps (B, C, H, W) over C, eps 1e-5, with weight and bias (C,), then `residual` added.

    Computed in float32 (float64 for float64) and rounded to the type of x once before the residual.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    mean_square = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=wide).square() / x.shape[1]
    y = x * torch.rsqrt(mean_square + NORM_EPS)
    weight, bias = (p.to(y)[:, None, None] for p in (weight, bias))
    y = y.mul_(weight).add_(bias).to(x.dtype)  # in place: this is the largest map of the network
    return y if residual is None else y.add_(residual)
