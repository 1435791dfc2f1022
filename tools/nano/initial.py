"""How the embedded model's networks begin, and the attention they are trained with."""

from __future__ import annotations

from torch import Tensor

from sana_core.config import AutoencoderConfig
from sana_core.dcae.autoencoder import DCAE
from sana_core.kernels.heads import merge_heads, split_heads
from sana_core.kit import Kit
from sana_core.training.networks import seeded


def initial_autoencoder(config: AutoencoderConfig, seed: int) -> DCAE:
    """A DC-AE to train, with PyTorch's usual first weights."""
    with seeded(seed):
        return DCAE(config)


def plain_attention(
    query: Tensor, key: Tensor, value: Tensor, heads: int, *, bias: Tensor | None = None, options: object = None
) -> Tensor:
    """Softmax attention as three products: for few picture tokens much faster on a CPU than the fused kernels."""
    query, key, value = (split_heads(x, x.shape[-1] // heads) for x in (query, key, value))
    logits = (query @ key.mT).float() * query.shape[-1] ** -0.5
    weights = (logits if bias is None else logits + bias).softmax(dim=-1)
    return merge_heads(weights.to(value.dtype) @ value)


KIT = Kit(attention=plain_attention)
