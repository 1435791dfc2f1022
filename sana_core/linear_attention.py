"""ReLU linear attention, the one operation that the transformer and the autoencoder share."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def linear_attention(query: Tensor, key: Tensor, value: Tensor, *, eps: float) -> Tensor:
    """ReLU linear attention (SANA, arXiv:2410.10629, sec. 2.2; EfficientViT, arXiv:2205.14756).

    query, key, value: (B, heads, N, D) -> (B, heads, N, D), float32 whatever the input is: the sums over N
    leave the range of float16 at 4096 tokens.
    """
    query, key, value = F.relu(query).float(), F.relu(key).float(), value.float()
    state = key.transpose(-2, -1) @ value  # (B, heads, D, D)
    normalizer = key.sum(dim=-2).unsqueeze(-1)  # (B, heads, D, 1)
    return (query @ state) / (query @ normalizer + eps)


def split_heads(tokens: Tensor, head_dim: int) -> Tensor:
    """(B, N, heads * D) -> (B, heads, N, D)."""
    return tokens.unflatten(-1, (-1, head_dim)).transpose(1, 2)


def merge_heads(heads: Tensor) -> Tensor:
    """(B, heads, N, D) -> (B, N, heads * D)."""
    return heads.transpose(1, 2).flatten(-2)
