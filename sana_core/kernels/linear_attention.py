"""ReLU linear attention, the one operation that the transformer and the autoencoder share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def linear_attention(query: Tensor, key: Tensor, value: Tensor, *, eps: float) -> Tensor:
    """ReLU linear attention (SANA, arXiv:2410.10629, sec. 2.2; EfficientViT, arXiv:2205.14756).

    query, key, value: (B, heads, N, D) -> (B, heads, N, D), float32 or wider whatever the input is: the sums over N
    leave the range of float16 at 4096 tokens.
    """
    return attend(query, *attention_state(key, value), eps=eps)


def attention_state(key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """All that linear attention keeps of keys and values (B, heads, N, D): sums over N, which add up over parts of the
    N tokens.

    Returns the state (B, heads, D, D) and the normalizer (B, heads, D, 1).
    """
    key, value = _widened(F.relu(key)), _widened(value)
    return key.transpose(-2, -1) @ value, key.sum(dim=-2).unsqueeze(-1)


def attend(query: Tensor, state: Tensor, normalizer: Tensor, *, eps: float) -> Tensor:
    """Answers of `attention_state` to queries (B, heads, N, D) -> (B, heads, N, D)."""
    query = _widened(F.relu(query))
    return (query @ state) / (query @ normalizer + eps)


def _widened(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def split_heads(tokens: Tensor, head_dim: int) -> Tensor:
    """(B, N, heads * D) -> (B, heads, N, D)."""
    return tokens.unflatten(-1, (-1, head_dim)).transpose(1, 2)


def merge_heads(heads: Tensor) -> Tensor:
    """(B, heads, N, D) -> (B, N, heads * D)."""
    return heads.transpose(1, 2).flatten(-2)
