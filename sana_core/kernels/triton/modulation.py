"""Layer norm with modulation, and residuals with a gate: x (B, N, C), one token per program, float32 inside.

shift, scale and gate are (B, 1, C) or (1, 1, C). The last stride of all tensors is 1; the others may be any.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .ops import launch, operation

EPS = 1e-6
BLOCKS = ((256, 1), (512, 2), (1024, 4), (2048, 4), (4096, 8), (8192, 16))
"""Channels held at once, warps. The first block that holds all channels of a token is taken."""


@triton.jit
def load(row, channel, here):
    return tl.load(row + channel, mask=here, other=0.0).to(tl.float32)


@triton.jit
def modulated(x, shift, scale, channels, eps, channel, here):
    """Layer norm of one token, then * (1 + scale) + shift; shift and scale point to rows."""
    mean = tl.sum(x, axis=0) / channels
    centred = tl.where(here, x - mean, 0.0)
    variance = tl.sum(centred * centred, axis=0) / channels
    return centred * tl.rsqrt(variance + eps) * (1 + load(scale, channel, here)) + load(shift, channel, here)


@triton.jit
def added(
    x, update, gate, limit, tokens, x_batch, x_token, update_batch, update_token, gate_batch, channel, here,
    GATED: tl.constexpr, LIMITED: tl.constexpr,
):  # fmt: skip
    """x + gate * update for the token of this program, float32."""
    batch, token = (tl.program_id(0) // tokens).to(tl.int64), (tl.program_id(0) % tokens).to(tl.int64)
    y = load(update + batch * update_batch + token * update_token, channel, here)
    if LIMITED:
        y = tl.minimum(tl.maximum(y, -limit, tl.PropagateNan.ALL), limit, tl.PropagateNan.ALL)
    if GATED:
        y *= load(gate + batch * gate_batch, channel, here)
    return load(x + batch * x_batch + token * x_token, channel, here) + y


@triton.jit
def norm_kernel(
    x, shift, scale, out, tokens, channels, eps, x_batch, x_token, shift_batch, scale_batch, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    batch, token = row // tokens, row % tokens
    channel = tl.arange(0, BLOCK)
    here = channel < channels
    values = load(x + batch * x_batch + token * x_token, channel, here)
    y = modulated(values, shift + batch * shift_batch, scale + batch * scale_batch, channels, eps, channel, here)
    tl.store(out + row * channels + channel, y.to(out.dtype.element_ty), mask=here)


@triton.jit
def residual_kernel(
    x, update, gate, out, limit, tokens, channels, x_batch, x_token, update_batch, update_token, gate_batch,
    GATED: tl.constexpr, LIMITED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, BLOCK)
    here = channel < channels
    y = added(
        x, update, gate, limit, tokens, x_batch, x_token, update_batch, update_token, gate_batch, channel, here,
        GATED, LIMITED,
    )  # fmt: skip
    tl.store(out + row * channels + channel, y.to(out.dtype.element_ty), mask=here)


@triton.jit
def residual_norm_kernel(
    x, update, gate, shift, scale, out, normed, limit, tokens, channels, eps,
    x_batch, x_token, update_batch, update_token, gate_batch, shift_batch, scale_batch,
    GATED: tl.constexpr, LIMITED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    batch = row // tokens
    channel = tl.arange(0, BLOCK)
    here = channel < channels
    y = added(
        x, update, gate, limit, tokens, x_batch, x_token, update_batch, update_token, gate_batch, channel, here,
        GATED, LIMITED,
    ).to(out.dtype.element_ty)  # fmt: skip
    tl.store(out + row * channels + channel, y, mask=here)
    y = y.to(tl.float32)  # rounded as the next operation would read it
    y = modulated(y, shift + batch * shift_batch, scale + batch * scale_batch, channels, eps, channel, here)
    tl.store(normed + row * channels + channel, y.to(normed.dtype.element_ty), mask=here)


def block(channels: int) -> tuple[int, int]:
    """-> the row of `BLOCKS` for so many channels."""
    for size, warps in BLOCKS:
        if channels <= size:
            return size, warps
    raise ValueError(f"{channels} channels; the Triton kernels hold at most {BLOCKS[-1][0]}. Use the plain version.")


def _batch_stride(x: Tensor) -> int:
    """0 for a tensor that all sequences share."""
    return x.stride(0) if x.shape[0] > 1 else 0


def _empty(x: Tensor, *_: object) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _two_empty(x: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return _empty(x), _empty(x)


def _plain_norm(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    from .. import modulation

    return modulation.modulated_norm(x, shift, scale)


def _plain_residual(x: Tensor, update: Tensor, gate: Tensor | None, limit: float | None) -> Tensor:
    from .. import modulation

    return modulation.gated_residual(x, update, gate, limit)


def _plain_residual_norm(
    x: Tensor, update: Tensor, gate: Tensor | None, limit: float | None, shift: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    from .. import modulation

    return modulation.gated_residual_norm(x, update, gate, limit, shift, scale)


@operation(fake=_empty, plain=_plain_norm)
def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer norm of x (B, N, C) without weights (eps 1e-6), then * (1 + scale) + shift -> (B, N, C), contiguous."""
    out = _empty(x)
    batch, tokens, channels = x.shape
    size, warps = block(channels)
    launch(
        norm_kernel, (batch * tokens,),
        x, shift, scale, out, tokens, channels, EPS, *x.stride()[:2], _batch_stride(shift), _batch_stride(scale),
        BLOCK=size, num_warps=warps,
    )  # fmt: skip
    return out


@operation(fake=_empty, plain=_plain_residual)
def gated_residual(x: Tensor, update: Tensor, gate: Tensor | None = None, limit: float | None = None) -> Tensor:
    """x + gate * update, (B, N, C), contiguous.

    update is clamped to [-limit, limit], unless limit is None. gate None is 1.
    """
    out = _empty(x)
    batch, tokens, channels = x.shape
    size, warps = block(channels)
    gates = update if gate is None else gate  # any pointer will do for none
    launch(
        residual_kernel, (batch * tokens,),
        x, update, gates, out, limit or 0.0, tokens, channels, *x.stride()[:2], *update.stride()[:2],
        _batch_stride(gates),
        GATED=gate is not None, LIMITED=limit is not None, BLOCK=size, num_warps=warps,
    )  # fmt: skip
    return out


@operation(fake=_two_empty, plain=_plain_residual_norm)
def gated_residual_norm(
    x: Tensor, update: Tensor, gate: Tensor | None, limit: float | None, shift: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """`gated_residual`, and `modulated_norm` of its result; (B, N, C) each, contiguous."""
    out, normed = _two_empty(x)
    batch, tokens, channels = x.shape
    size, warps = block(channels)
    gates = update if gate is None else gate
    launch(
        residual_norm_kernel, (batch * tokens,),
        x, update, gates, shift, scale, out, normed, limit or 0.0, tokens, channels, EPS,
        *x.stride()[:2], *update.stride()[:2], _batch_stride(gates), _batch_stride(shift), _batch_stride(scale),
        GATED=gate is not None, LIMITED=limit is not None, BLOCK=size, num_warps=warps,
    )  # fmt: skip
    return out, normed
