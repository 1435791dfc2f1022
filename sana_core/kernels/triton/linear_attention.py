"""ReLU linear attention in two kernels: the state of keys and values, and its answers to queries.

Tensors are (B, N, H, D), D = 32, the last stride 1. Sums are float32. The state is a sum over tokens: `splits` programs
each sum a part of them, and the parts are added in order, so that results do not depend on time.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .ops import launch, operation

HEAD_DIM = 32
STATE_BLOCKS = {2: (64, 4, 3), 4: (32, 4, 3)}  # bytes per number -> tokens at once, warps, stages
APPLY_BLOCKS = {2: (64, 4, 2), 4: (64, 4, 2)}
APPLY_TOKENS = 256
"""Tokens per program of the second kernel. It reads 4 kB of every partial state for 16 kB of queries."""
PROGRAMS = 512
"""The first kernel splits the tokens until it has as many programs."""
LEAST_TOKENS = 128  # per split
SPLITS_TO_APPLY = 8
"""So many partial states the second kernel adds up itself. A kernel between the two does it if there are more."""


@triton.jit
def relu(x):
    return tl.where(x < 0, 0.0, x)  # NaN stays, as in PyTorch


@triton.jit
def rounded_to_tf32(x):
    """The nearest numbers with 10 bits after the point. Tensor cores cut the other bits off. NaN stays."""
    rounded = ((x.to(tl.int32, bitcast=True) + 0x1000) & ~0x1FFF).to(tl.float32, bitcast=True)
    return tl.where(x == x, rounded, x)


@triton.jit
def state_kernel(
    key, value, states, normalizers, tokens, heads, split_tokens,
    key_batch, key_token, key_head, value_batch, value_token, value_head,
    D: tl.constexpr, BLOCK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program: one head of one sequence, one split of the tokens."""
    sequence, split = tl.program_id(0), tl.program_id(1)
    batch, head = (sequence // heads).to(tl.int64), (sequence % heads).to(tl.int64)
    key += batch * key_batch + head * key_head
    value += batch * value_batch + head * value_head
    channel = tl.arange(0, D)
    row = tl.arange(0, BLOCK)
    state = tl.zeros((D, D), tl.float32)
    sums = tl.zeros((BLOCK, D), tl.float32)
    first = split * split_tokens
    last = tl.minimum(first + split_tokens, tokens)
    for start in range(first, last, BLOCK):
        here = (start + row < last)[:, None]
        offset = tl.cast(start, tl.int64)
        k = tl.load(key + offset * key_token + row[:, None] * key_token + channel, mask=here, other=0.0)
        v = tl.load(value + offset * value_token + row[:, None] * value_token + channel, mask=here, other=0.0)
        positive = relu(k.to(tl.float32))
        state = tl.dot(tl.trans(positive.to(k.dtype)), v, state, input_precision=PRECISION)
        sums += positive
    part = split.to(tl.int64) * tl.num_programs(0) + sequence
    tl.store(states + part * D * D + channel[:, None] * D + channel, state)
    tl.store(normalizers + part * D + channel, tl.sum(sums, axis=0))


@triton.jit
def total(states, normalizers, sequence, sequences, splits, D: tl.constexpr):
    """The sum of the partial states of one head of one sequence, and that of its normalizers."""
    channel = tl.arange(0, D)
    state = tl.zeros((D, D), tl.float32)
    normalizer = tl.zeros((D,), tl.float32)
    for split in range(splits):
        part = tl.cast(split, tl.int64) * sequences + sequence
        state += tl.load(states + part * D * D + channel[:, None] * D + channel)
        normalizer += tl.load(normalizers + part * D + channel)
    return state, normalizer


@triton.jit
def total_kernel(states, normalizers, state, normalizer, splits, D: tl.constexpr):
    """One program: one head of one sequence."""
    sequence = tl.program_id(0)
    channel = tl.arange(0, D)
    summed, sums = total(states, normalizers, sequence, tl.num_programs(0), splits, D)
    tl.store(state + sequence.to(tl.int64) * D * D + channel[:, None] * D + channel, summed)
    tl.store(normalizer + sequence.to(tl.int64) * D + channel, sums)


@triton.jit
def apply_kernel(
    query, states, normalizers, out, tokens, heads, splits, eps, query_batch, query_token, query_head,
    D: tl.constexpr, BLOCK: tl.constexpr, TOKENS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program: one head of one sequence, TOKENS of the queries."""
    sequence, part = tl.program_id(0), tl.program_id(1)
    batch, head = (sequence // heads).to(tl.int64), (sequence % heads).to(tl.int64)
    query += batch * query_batch + head * query_head
    out += (batch * tokens * heads + head) * D
    channel = tl.arange(0, D)
    row = tl.arange(0, BLOCK)
    state, normalizer = total(states, normalizers, sequence, tl.num_programs(0), splits, D)
    if PRECISION == "tf32":
        state = rounded_to_tf32(state)
    for start in range(part * TOKENS, tl.minimum(part * TOKENS + TOKENS, tokens), BLOCK):
        here = (start + row < tokens)[:, None]
        offset = tl.cast(start, tl.int64)
        q = tl.load(query + offset * query_token + row[:, None] * query_token + channel, mask=here, other=0.0)
        q = relu(q.to(tl.float32))
        y = tl.dot(q, state, input_precision=PRECISION) / (tl.sum(q * normalizer, axis=1, keep_dims=True) + eps)
        at = offset * heads * D + row[:, None] * heads * D + channel
        tl.store(out + at, y.to(out.dtype.element_ty), mask=here)


def precision(dtype: torch.dtype) -> str:
    """Of matrix products. 16-bit numbers are TF32 numbers too; float32 ones are multiplied in three parts."""
    return "tf32x3" if dtype == torch.float32 else "tf32"


def split(tokens: int, sequences: int) -> tuple[int, int]:
    """How many splits the tokens of `sequences` heads come in, and the tokens of one (a multiple of LEAST_TOKENS)."""
    wanted = min(triton.cdiv(PROGRAMS, sequences), triton.cdiv(tokens, LEAST_TOKENS))
    each = triton.cdiv(triton.cdiv(tokens, wanted), LEAST_TOKENS) * LEAST_TOKENS
    return triton.cdiv(tokens, each), each


def _partial_states(key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """-> states (splits, B, H, D, D) and normalizers (splits, B, H, D, 1), float32."""
    batch, tokens, heads, size = key.shape
    splits, split_tokens = split(tokens, batch * heads)
    states = key.new_empty((splits, batch, heads, size, size), dtype=torch.float32)
    normalizers = key.new_empty((splits, batch, heads, size, 1), dtype=torch.float32)
    block, warps, stages = STATE_BLOCKS[key.element_size()]
    launch(
        state_kernel, (batch * heads, splits),
        key, value, states, normalizers, tokens, heads, split_tokens, *key.stride()[:3], *value.stride()[:3],
        D=size, BLOCK=block, PRECISION=precision(key.dtype), num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return states, normalizers


def _total(states: Tensor, normalizers: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over the splits."""
    splits, batch, heads, size = states.shape[:4]
    state, normalizer = torch.empty_like(states[0]), torch.empty_like(normalizers[0])
    launch(total_kernel, (batch * heads,), states, normalizers, state, normalizer, splits, D=size, num_warps=4)
    return state, normalizer


def _apply(query: Tensor, states: Tensor, normalizers: Tensor, splits: int, eps: float) -> Tensor:
    batch, tokens, heads, size = query.shape
    out = _like_query(query)
    block, warps, stages = APPLY_BLOCKS[query.element_size()]
    launch(
        apply_kernel, (batch * heads, triton.cdiv(tokens, APPLY_TOKENS)),
        query, states, normalizers, out, tokens, heads, splits, eps, *query.stride()[:3],
        D=size, BLOCK=block, TOKENS=APPLY_TOKENS, PRECISION=precision(query.dtype), num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return out


def _like_query(query: Tensor, *_: object) -> Tensor:
    return torch.empty_like(query, memory_format=torch.contiguous_format)


def _like_state(key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    batch, _, heads, size = key.shape
    state = key.new_empty((batch, heads, size, size), dtype=torch.float32)
    return state, key.new_empty((batch, heads, size, 1), dtype=torch.float32)


def _plain_linear_attention(query: Tensor, key: Tensor, value: Tensor, eps: float) -> Tensor:
    from ..linear_attention import linear_attention

    return linear_attention(query, key, value, eps=eps)


def _plain_state(key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    from ..linear_attention import attention_state

    return attention_state(key, value)


def _plain_attend(query: Tensor, state: Tensor, normalizer: Tensor, eps: float) -> Tensor:
    from ..linear_attention import attend

    return attend(query, state, normalizer, eps=eps)


@operation(fake=_like_query, plain=_plain_linear_attention)
def linear_attention(query: Tensor, key: Tensor, value: Tensor, eps: float) -> Tensor:
    """ReLU linear attention: query, key, value (B, N, H, D) -> (B, N, H, D), contiguous."""
    states, normalizers = _partial_states(key, value)
    splits = states.shape[0]
    if splits > SPLITS_TO_APPLY:
        states, normalizers = _total(states, normalizers)
        splits = 1
    return _apply(query, states, normalizers, splits, eps)


@operation(fake=_like_state, plain=_plain_state)
def attention_state(key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over the tokens of key and value (B, N, H, D): state (B, H, D, D) and normalizer (B, H, D, 1), float32."""
    return _total(*_partial_states(key, value))


@operation(fake=_like_query, plain=_plain_attend)
def attend(query: Tensor, state: Tensor, normalizer: Tensor, eps: float) -> Tensor:
    """Answers of `attention_state` to queries (B, N, H, D) -> (B, N, H, D), contiguous."""
    return _apply(query, state.contiguous(), normalizer.contiguous(), 1, eps)
