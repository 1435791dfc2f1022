"""ReLU linear attention, which the transformer and the autoencoder share."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

WITHOUT_AUTOCAST = ("meta", "lazy")  # devices without values, which PyTorch cannot be asked about


def linear_attention(query: Tensor, key: Tensor, value: Tensor, *, eps: float) -> Tensor:
    """ReLU linear attention (SANA, arXiv:2410.10629, sec. 2.2; EfficientViT, arXiv:2205.14756).

    query, key, value: (B, heads, N, D) -> (B, heads, N, D), in float32 or wider whatever the input is, under autocast
    too: the sums over N leave the range of float16 at 4096 tokens.
    """
    return attend(query, *attention_state(key, value), eps=eps)


def attention_state(key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """All that linear attention keeps of keys and values (B, heads, N, D): sums over N.

    The sums of the parts of a sequence add up to those of the whole. Returns the state (B, heads, D, D) and the
    normalizer (B, heads, D, 1).
    """
    key, value = _widened(F.relu(key)), _widened(value)
    with _no_autocast(key.device):
        return key.transpose(-2, -1) @ value, key.sum(dim=-2).unsqueeze(-1)


def attend(query: Tensor, state: Tensor, normalizer: Tensor, *, eps: float) -> Tensor:
    """Answers of `attention_state` to queries (B, heads, N, D) -> (B, heads, N, D)."""
    query = _widened(F.relu(query))
    with _no_autocast(query.device):
        return (query @ state) / (query @ normalizer + eps)


def _widened(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _no_autocast(device: torch.device) -> AbstractContextManager:
    """Autocast would compute the matrix products in 16 bit: errors of some percent, infinities in float16."""
    enabled = device.type not in WITHOUT_AUTOCAST and torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, enabled=False) if enabled else nullcontext()
