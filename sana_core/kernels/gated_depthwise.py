"""The middle of Mix-FFN (SANA, arXiv:2410.10629, sec. 2.2): SiLU, 3x3 depthwise convolution, gate."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor


def gated_depthwise(maps: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """maps (B, 2 F, H, W), weight (2 F, 1, 3, 3), bias (2 F,) -> (B, F, H, W). Zeros are outside of the maps."""
    return gated(lambda x: F.conv2d(x, weight, bias, padding=1, groups=len(weight)), maps)


def gated(depthwise: Callable[[Tensor], Tensor], maps: Tensor) -> Tensor:
    """SiLU, `depthwise` and the gate: (B, 2 F, H, W) -> (B, F, H, W). May overwrite maps."""
    y, gate = depthwise(F.silu(maps, inplace=not maps.requires_grad)).chunk(2, dim=1)
    if y.requires_grad:  # in training the inputs are needed again
        return y * F.silu(gate)
    return y.mul_(F.silu(gate, inplace=True))
