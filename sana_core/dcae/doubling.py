"""Half and double size on channels-last maps (B, C, H, W): shortcuts without parameters, and the convolution of a
doubled map.

Position (2 i + a, 2 j + b) of a doubled map is in phase (a, b) of position (i, j). Maps are read through views, for
PyTorch's pixel-shuffle gives maps that are not channels-last, which the next convolution copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

PHASES = tuple(product(range(2), range(2)))


def doubled_convolution(x: Tensor, weight: Tensor, bias: Tensor | None) -> list[Tensor]:
    """Nearest-neighbour doubling and a 3x3 convolution, padding 1, in 4/9 of the operations: the four phases of the
    result, each (B, out, H, W).

    In the doubled map the nine weights meet four positions of x. Their sums are the weights of a 2x2 convolution, with
    those of all phases as its channels.
    """
    height, width = x.shape[-2:]
    bias = None if bias is None else bias.repeat(4)
    y = F.conv2d(x, phase_weights(weight), bias, padding=1)
    return [part[..., a : a + height, b : b + width] for part, (a, b) in zip(y.chunk(4, dim=1), PHASES)]


def phase_weights(weight: Tensor) -> Tensor:
    """(out, in, 3, 3) -> (4 out, in, 2, 2), phase by phase. Each is a sum of up to four weights, rounded once.

    Phase 0 of an axis sees the rows (i - 1, i) with weights (0, 1 + 2), phase 1 the rows (i, i + 1) with
    (0 + 1, 2): row 2 p + a of all sums of neighbours is for phase a and tap p.
    """
    sums = F.avg_pool2d(weight, 2, stride=1, padding=1, divisor_override=1)
    taps = sums.unflatten(3, (2, 2)).unflatten(2, (2, 2))  # (out, in, p, a, q, b)
    return taps.permute(3, 5, 0, 2, 4, 1).flatten(0, 2).contiguous().permute(0, 3, 1, 2)


def spread_channels(phases: Sequence[Tensor], x: Tensor) -> Tensor:
    """The map (B, out, 2 H, 2 W) of four phases (B, out, H, W), plus the shortcut of upsampling: channels of x
    (B, C, H, W), each repeated 4 out / C times in a row, pixel-shuffled.
    """
    batch, channels, height, width = phases[0].shape
    repeats = 4 * channels // x.shape[1]
    out = x.new_empty((batch, 2 * height, 2 * width, channels)).permute(0, 3, 1, 2)
    for index, ((a, b), phase) in enumerate(zip(PHASES, phases)):
        _write_sum(out[..., a::2, b::2], phase, _taken(x, repeats, index))
    return out


def _taken(x: Tensor, repeats: int, phase: int) -> Tensor:
    """Of the channels of x, each repeated in a row, every fourth from `phase` on: channel (4 c + phase) // repeats."""
    if repeats <= 4:
        return x[:, phase // repeats :: 4 // repeats]
    return x.repeat_interleave(repeats // 4, dim=1)


def add_averages(y: Tensor, x: Tensor) -> Tensor:
    """y (B, out, H, W) plus the shortcut of downsampling, in place: x (B, C, 2 H, 2 W) pixel-unshuffled, and the
    averages of 4 C / out channels in a row.
    """
    group = 4 * x.shape[1] // y.shape[1]
    rows, columns = min(2, max(1, group // 2)), min(2, group)
    averages = F.avg_pool2d(x, (rows, columns)) if group > 1 else x
    if group > 4:
        averages = averages.unflatten(1, (-1, group // 4)).mean(dim=2)
    parts = averages.unflatten(3, (-1, 2 // columns)).unflatten(2, (-1, 2 // rows))  # (B, C, H, a, W, b)
    parts = parts.permute(0, 1, 3, 5, 2, 4)
    y.unflatten(1, (*parts.shape[1:2], -1)).unflatten(2, parts.shape[2:4]).add_(parts)
    return y


def _write_sum(out: Tensor, a: Tensor, b: Tensor) -> None:
    """out = a + b, of which training needs to know."""
    if torch.is_grad_enabled() and (a.requires_grad or b.requires_grad):
        out.copy_(a + b)
    else:
        torch.add(a, b, out=out)
