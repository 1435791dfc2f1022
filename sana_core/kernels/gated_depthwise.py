"""The middle of Mix-FFN (SANA, arXiv:2410.10629, sec. 2.2): SiLU, 3x3 depthwise convolution, gate."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor


def gated_depthwise(maps: Tensor, weight: Tensor, bias: Tensor, in_one_piece: bool = False) -> Tensor:
    """maps (B, 2 F, H, W), weight (2 F, 1, 3, 3), bias (2 F,) -> (B, F, H, W). Zeros are outside of the maps.

    in_one_piece: see `gated`; the result of the Triton kernel always is.
    """
    depthwise = partial(F.conv2d, weight=weight, bias=bias, padding=1, groups=len(weight))
    return gated(depthwise, maps, in_one_piece=in_one_piece)


def gated(depthwise: Callable[[Tensor], Tensor], maps: Tensor, *, in_one_piece: bool = False) -> Tensor:
    """SiLU, `depthwise` and the gate: (B, 2 F, H, W) -> (B, F, H, W). May overwrite maps.

    in_one_piece: the result is a map of its own, as a convolution takes it; else it may be a half of a larger one,
    which saves memory and is all the same to a Linear layer.
    """
    y, gate = depthwise(F.silu(maps, inplace=not maps.requires_grad)).chunk(2, dim=1)
    if y.requires_grad:  # in training the inputs are needed again
        return y * F.silu(gate)
    if in_one_piece:
        return y * F.silu(gate, inplace=True)
    return y.mul_(F.silu(gate, inplace=True))
