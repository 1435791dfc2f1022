"""The middle of a Mix-FFN in one kernel: SiLU, 3x3 depthwise convolution, gate. Maps are channels-last in memory.

A program walks along two rows of the map. At each column it reads four numbers per channel, two rows and their
neighbours, and takes their SiLU once; six of the nine products with the weights belong to columns beside it. So every
number is read and its SiLU taken twice in all, not nine times.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .ops import launch, operation

BLOCKS = {2: (128, 16, 2), 4: (128, 16, 2)}  # bytes per number -> channels, columns, warps


@triton.jit
def silu(x):
    return x / (1 + tl.exp(-x))


@triton.jit
def silu_at(pointer, here):
    """0 outside of the map, as the padding asks: silu(0) = 0."""
    return silu(tl.load(pointer, mask=here, other=0.0).to(tl.float32))


@triton.jit
def weights_at(weight, column, here):
    """The three weights of a column of the 3x3, from the top."""
    top = tl.load(weight + column, mask=here, other=0.0).to(tl.float32)
    middle = tl.load(weight + column + 3, mask=here, other=0.0).to(tl.float32)
    bottom = tl.load(weight + column + 6, mask=here, other=0.0).to(tl.float32)
    return top, middle, bottom


@triton.jit
def gated_depthwise_kernel(
    maps, weight, bias, out, channels, height, width, maps_batch, maps_row, maps_column,
    CHANNELS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """One program: CHANNELS of the result and their gates, two rows, COLUMNS columns."""
    program = tl.program_id(0)
    blocks, parts, pairs = tl.cdiv(channels, CHANNELS), tl.cdiv(width, COLUMNS), tl.cdiv(height, 2)
    channel = program % blocks * CHANNELS + tl.arange(0, CHANNELS)
    first = program // blocks % parts * COLUMNS
    row = program // (blocks * parts) % pairs * 2
    batch = (program // (blocks * parts * pairs)).to(tl.int64)
    last = tl.minimum(first + COLUMNS, width)
    is_channel = channel < channels

    row0 = maps + batch * maps_batch + (row - 1).to(tl.int64) * maps_row  # the row above the pair
    row1 = row0 + maps_row
    row2 = row1 + maps_row
    row3 = row2 + maps_row
    out0 = out + (batch * height + row) * width * channels
    out1 = out0 + width * channels

    wa0, wa1, wa2 = weights_at(weight + channel * 9, 0, is_channel)  # weights of the values, column by column
    wb0, wb1, wb2 = weights_at(weight + channel * 9, 1, is_channel)
    wc0, wc1, wc2 = weights_at(weight + channel * 9, 2, is_channel)
    ga0, ga1, ga2 = weights_at(weight + (channels + channel) * 9, 0, is_channel)  # weights of the gates
    gb0, gb1, gb2 = weights_at(weight + (channels + channel) * 9, 1, is_channel)
    gc0, gc1, gc2 = weights_at(weight + (channels + channel) * 9, 2, is_channel)
    value_bias = tl.load(bias + channel, mask=is_channel, other=0.0).to(tl.float32)
    gate_bias = tl.load(bias + channels + channel, mask=is_channel, other=0.0).to(tl.float32)

    # Sums of the columns before and at the one that is read, for the upper (0) and the lower (1) row.
    before0, before1, at0, at1 = value_bias, value_bias, value_bias, value_bias
    gate_before0, gate_before1, gate_at0, gate_at1 = gate_bias, gate_bias, gate_bias, gate_bias
    for column in range(first - 1, last + 1):
        inside = tl.where((column >= 0) & (column < width), channels, 0)  # channels to read: none beside the map
        here = channel < inside
        here0 = channel < tl.where(row > 0, inside, 0)
        here2 = channel < tl.where(row + 1 < height, inside, 0)
        here3 = channel < tl.where(row + 2 < height, inside, 0)
        offset = column * maps_column + channel
        x0, x1 = silu_at(row0 + offset, here0), silu_at(row1 + offset, here)
        x2, x3 = silu_at(row2 + offset, here2), silu_at(row3 + offset, here3)
        before0 += x0 * wc0 + x1 * wc1 + x2 * wc2
        before1 += x1 * wc0 + x2 * wc1 + x3 * wc2
        after0 = value_bias + x0 * wa0 + x1 * wa1 + x2 * wa2
        after1 = value_bias + x1 * wa0 + x2 * wa1 + x3 * wa2
        at0 += x0 * wb0 + x1 * wb1 + x2 * wb2
        at1 += x1 * wb0 + x2 * wb1 + x3 * wb2

        offset += channels
        x0, x1 = silu_at(row0 + offset, here0), silu_at(row1 + offset, here)
        x2, x3 = silu_at(row2 + offset, here2), silu_at(row3 + offset, here3)
        gate_before0 += x0 * gc0 + x1 * gc1 + x2 * gc2
        gate_before1 += x1 * gc0 + x2 * gc1 + x3 * gc2
        gate_after0 = gate_bias + x0 * ga0 + x1 * ga1 + x2 * ga2
        gate_after1 = gate_bias + x1 * ga0 + x2 * ga1 + x3 * ga2
        gate_at0 += x0 * gb0 + x1 * gb1 + x2 * gb2
        gate_at1 += x1 * gb0 + x2 * gb1 + x3 * gb2

        done = tl.where(column > first, channels, 0)  # channels to write: none before the second column
        place = (column - 1) * channels + channel
        y0 = (before0 * silu(gate_before0)).to(out.dtype.element_ty)
        y1 = (before1 * silu(gate_before1)).to(out.dtype.element_ty)
        tl.store(out0 + place, y0, mask=channel < done)
        tl.store(out1 + place, y1, mask=channel < tl.where(row + 1 < height, done, 0))
        before0, before1, at0, at1 = at0, at1, after0, after1
        gate_before0, gate_before1, gate_at0, gate_at1 = gate_at0, gate_at1, gate_after0, gate_after1


def _empty(maps: Tensor, *_: object) -> Tensor:
    batch, channels, height, width = maps.shape
    return maps.new_empty((batch, height, width, channels // 2)).movedim(-1, 1)


def _plain(maps: Tensor, weight: Tensor, bias: Tensor, in_one_piece: bool) -> Tensor:
    from .. import gated_depthwise as plain

    return plain.gated_depthwise(maps, weight, bias, in_one_piece)


@operation(fake=_empty, plain=_plain)
def gated_depthwise(maps: Tensor, weight: Tensor, bias: Tensor, in_one_piece: bool = False) -> Tensor:
    """y = 3x3 depthwise convolution of silu(maps), padded with zeros -> y[:, :F] * silu(y[:, F:]).

    maps: (B, 2 F, H, W), stride 1 over channels; weight: (2 F, 1, 3, 3); bias: (2 F,) -> (B, F, H, W), channels-last
    and in one piece in any case.
    """
    out = _empty(maps)
    batch, channels, height, width = out.shape
    size, columns, warps = BLOCKS[maps.element_size()]
    programs = triton.cdiv(channels, size) * triton.cdiv(width, columns) * triton.cdiv(height, 2) * batch
    launch(
        gated_depthwise_kernel, (programs,),
        maps, weight.contiguous(), bias, out, channels, height, width, maps.stride(0), maps.stride(2), maps.stride(3),
        CHANNELS=size, COLUMNS=columns, num_warps=warps,
    )  # fmt: skip
    return out
