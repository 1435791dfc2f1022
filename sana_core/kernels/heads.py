"""Channels of tokens as heads of attention, and back."""

from __future__ import annotations

from torch import Tensor


def split_heads(tokens: Tensor, head_dim: int) -> Tensor:
    """(B, N, heads * D) -> (B, heads, N, D)."""
    return tokens.unflatten(-1, (-1, head_dim)).transpose(1, 2)


def merge_heads(heads: Tensor) -> Tensor:
    """(B, heads, N, D) -> (B, N, heads * D)."""
    return heads.transpose(1, 2).flatten(-2)
