"""ReLU linear attention, which the transformer and the autoencoder share."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

WITHOUT_AUTOCAST = ("meta", "lazy")  # devices without values, which PyTorch cannot be asked about
BMM_INTO_FLOAT32 = "dtype" in torch.ops.aten.bmm.overloads() and torch.version.hip is None
"""Since PyTorch 2.8, of NVIDIA GPUs; devices without values stand for them."""


def linear_attention(query: Tensor, key: Tensor, value: Tensor, *, eps: float) -> Tensor:
    """ReLU linear attention (SANA, arXiv:2410.10629, sec. 2.2; EfficientViT, arXiv:2205.14756).

    query, key, value: (B, N, heads, D) -> (B, N, heads, D), in their type. Sums over N are float32 or wider, under
    autocast too: they leave the range of float16 at 4096 tokens.
    """
    return attend(query, *attention_state(key, value), eps=eps)


def attention_state(key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """All that linear attention keeps of keys and values (B, N, heads, D): sums over N, in float32 or wider.

    The sums of the parts of a sequence add up to those of the whole. Returns the state (B, heads, D, D) and the
    normalizer (B, heads, D, 1).
    """
    key, value = _by_head(F.relu(key)), _by_head(value)
    with _no_autocast(key.device):
        return _product(key.mT, value), key.sum(dim=-2, dtype=_wide(key.dtype)).unsqueeze(-1)


def attend(query: Tensor, state: Tensor, normalizer: Tensor, *, eps: float) -> Tensor:
    """Answers of `attention_state` to queries (B, N, heads, D) -> (B, N, heads, D), in the queries' type."""
    dtype, query = query.dtype, _by_head(F.relu(query))
    with _no_autocast(query.device):
        answer = _product(query, state).div_(_product(query, normalizer) + eps)
    return answer.transpose(1, 2).to(dtype, memory_format=torch.contiguous_format)


def _by_head(x: Tensor) -> Tensor:
    """(B, N, heads, D) -> (B, heads, N, D), as matrix products take it."""
    return x.transpose(1, 2).contiguous()


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Batched matrix product (B, heads, M, K) x (B, heads, K, N), in float32 or wider.

    On an NVIDIA GPU bfloat16 is multiplied as it is and added up in float32. A state in float32 is rounded for that,
    which is half of what the rounding of the answer costs (8e-4 of 1.6e-3).
    """
    there = BMM_INTO_FLOAT32 and a.device.type in ("cuda", *WITHOUT_AUTOCAST)
    if a.dtype == torch.bfloat16 and there and not _needs_gradient(a, b):
        product = torch.bmm(a.flatten(0, 1), b.to(a.dtype).flatten(0, 1), out_dtype=torch.float32)
        return product.unflatten(0, a.shape[:2])
    wide = torch.promote_types(_wide(a.dtype), b.dtype)
    return a.to(wide) @ b.to(wide)


def _needs_gradient(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _no_autocast(device: torch.device) -> AbstractContextManager:
    """Autocast would compute the matrix products in 16 bit: errors of some percent, infinities in float16."""
    enabled = device.type not in WITHOUT_AUTOCAST and torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, enabled=False) if enabled else nullcontext()
