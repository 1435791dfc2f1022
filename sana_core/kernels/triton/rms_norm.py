"""RMS norm over the channels of a map (B, C, H, W) that is channels-last in memory: stride 1 over C, the others any."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .ops import launch, operation

EPS = 1e-5
BLOCKS = ((32, 32, 2), (64, 32, 4), (128, 16, 4), (256, 8, 4), (512, 4, 4), (1024, 2, 4), (2048, 1, 4), (4096, 1, 8))
"""Channels held at once, positions of a row, warps. The first block that holds all channels of a position is taken."""


@triton.jit
def rms_norm_kernel(
    x, weight, bias, residual, out, channels, height, width, eps,
    x_batch, x_row, x_column, residual_batch, residual_row, residual_column,
    ADDED: tl.constexpr, CHANNELS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """One program: COLUMNS positions in one row of the map."""
    parts = tl.cdiv(width, COLUMNS)
    line = (tl.program_id(0) // parts).to(tl.int64)  # of all rows of the batch
    batch, row = line // height, line % height
    first = tl.program_id(0) % parts * COLUMNS
    column = first + tl.arange(0, COLUMNS)[:, None]
    channel = tl.arange(0, CHANNELS)
    is_channel = channel < channels
    here = (column < width) & is_channel[None, :]

    values = tl.load(x + batch * x_batch + row * x_row + column * x_column + channel, mask=here, other=0.0)
    values = values.to(tl.float32)
    mean_square = tl.sum(values * values, axis=1, keep_dims=True) / channels
    y = values * tl.rsqrt(mean_square + eps)
    y *= tl.load(weight + channel, mask=is_channel, other=0.0).to(tl.float32)[None, :]
    y += tl.load(bias + channel, mask=is_channel, other=0.0).to(tl.float32)[None, :]
    if ADDED:
        at = residual + batch * residual_batch + row * residual_row + column * residual_column + channel
        y += tl.load(at, mask=here, other=0.0).to(tl.float32)
    tl.store(out + line * width * channels + column * channels + channel, y.to(out.dtype.element_ty), mask=here)


def block(channels: int) -> tuple[int, int, int]:
    """-> the row of `BLOCKS` for so many channels."""
    for size, columns, warps in BLOCKS:
        if channels <= size:
            return size, columns, warps
    raise ValueError(f"{channels} channels; the Triton kernel holds at most {BLOCKS[-1][0]}. Use the plain version.")


def _empty(x: Tensor, *_: object) -> Tensor:
    return torch.empty_like(x, memory_format=torch.channels_last)


def _plain(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None) -> Tensor:
    from .. import rms_norm

    return rms_norm.rms_norm_2d(x, weight, bias, residual)


@operation(fake=_empty, plain=_plain)
def rms_norm_2d(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None = None) -> Tensor:
    """x * rsqrt(mean(x^2) + 1e-5) * weight + bias, then + residual; the mean is over C, in float32.

    x, residual: (B, C, H, W); weight, bias: (C,) -> (B, C, H, W), channels-last.
    """
    out = _empty(x)
    batch, channels, height, width = x.shape
    size, columns, warps = block(channels)
    added = x if residual is None else residual  # any pointer will do for none
    launch(
        rms_norm_kernel, (batch * height * triton.cdiv(width, columns),),
        x, weight, bias, added, out, channels, height, width, EPS,
        x.stride(0), x.stride(2), x.stride(3), added.stride(0), added.stride(2), added.stride(3),
        ADDED=residual is not None, CHANNELS=size, COLUMNS=columns, num_warps=warps,
    )  # fmt: skip
    return out
