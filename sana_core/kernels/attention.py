"""Softmax attention."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from .heads import merge_heads, split_heads


def softmax_attention(
    query: Tensor, key: Tensor, value: Tensor, heads: int, *, bias: Tensor | None = None, options: Any = None
) -> Tensor:
    """Multi-head softmax attention by PyTorch's own kernels; the scale is 1 / sqrt(head size).

    query: (B, N, C); key, value: (B, L, C); bias: (B, 1, 1, L) or None, added to the logits -> (B, N, C).
    options: for the attention of a host, see `kit.Attention`; not used here.
    """
    query, key, value = (split_heads(x, x.shape[-1] // heads) for x in (query, key, value))
    return merge_heads(F.scaled_dot_product_attention(query, key, value, attn_mask=bias))
