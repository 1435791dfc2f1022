"""Linear self-attention over the picture and softmax cross-attention to the text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..config import LINEAR_HEAD_DIM, TransformerConfig
from ..kernels.linear_attention import linear_attention, merge_heads, split_heads
from .passes import in_passes

FLOAT16_MAX = 65504.0


@dataclass(frozen=True)
class Context:
    """The caption as the blocks see it; a host may subclass it to pass more to its attention.

    tokens: (B, L, C), projected and normalised.  mask: (B, 1, 1, L), 0 or a large negative number, added to the logits;
    None if every token counts.  keys_values: per block the keys and values, (B, L, C) each, where they were computed
    ahead.  states: the text states (B, L, caption channels) behind the tokens, for ControlNets that project them on
    their own.
    """

    tokens: Tensor
    mask: Tensor | None = None
    keys_values: tuple[tuple[Tensor, Tensor], ...] | None = None
    states: Tensor | None = None


# (query (B, N, C), key (B, L, C), value (B, L, C), heads, the context that key and value come from) -> (B, N, C)
Attention = Callable[[Tensor, Tensor, Tensor, int, Context], Tensor]

SelfAttention = Callable[[Tensor, Tensor, Tensor], Tensor]  # query, key, value, (B, N, C) each -> (B, N, C)


def attend_to_itself(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Every token attends to itself alone: the perturbation of PAG (arXiv:2403.17377, sec. 4). Queries and keys have no
    say.
    """
    return value


def softmax_attention(query: Tensor, key: Tensor, value: Tensor, heads: int, context: Context) -> Tensor:
    """Multi-head softmax attention by PyTorch's own kernels; the scale is 1/sqrt(head size)."""
    query, key, value = (split_heads(x, x.shape[-1] // heads) for x in (query, key, value))
    return merge_heads(F.scaled_dot_product_attention(query, key, value, attn_mask=context.mask))


class LinearAttention(nn.Module):
    """ReLU linear self-attention (SANA, arXiv:2410.10629, sec. 2.2), (B, N, C) -> (B, N, C).

    With qk-norm the RMS norms run over all heads together. Releases trained in float16 rely on their output being
    clamped to that range; without it pictures break in any wider type.
    """

    def __init__(self, config: TransformerConfig, *, ops: Any, device=None, dtype=None) -> None:
        super().__init__()
        size, factory = config.hidden_size, {"device": device, "dtype": dtype}
        self.to_q = ops.Linear(size, size, bias=False, **factory)
        self.to_k = ops.Linear(size, size, bias=False, **factory)
        self.to_v = ops.Linear(size, size, bias=False, **factory)
        self.norm_q = ops.RMSNorm(size, eps=1e-5, **factory) if config.qk_norm else nn.Identity()
        self.norm_k = ops.RMSNorm(size, eps=1e-5, **factory) if config.qk_norm else nn.Identity()
        self.to_out = nn.ModuleList([ops.Linear(size, size, **factory)])
        self.clamp = config.fp16_trained is not False

    def forward(self, x: Tensor, attend: SelfAttention | None = None) -> Tensor:
        """attend: what stands in for the linear attention between the projections."""
        y = self.to_out[0](in_passes(self._attend, x) if attend is None else attend(*self._projections(x)))
        return y.clamp(-FLOAT16_MAX, FLOAT16_MAX) if self.clamp else y

    def _projections(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.norm_q(self.to_q(x)), self.norm_k(self.to_k(x)), self.to_v(x)

    def _attend(self, x: Tensor) -> Tensor:
        query, key, value = (split_heads(projection, LINEAR_HEAD_DIM) for projection in self._projections(x))
        return merge_heads(linear_attention(query, key, value, eps=1e-8)).to(x.dtype)


class CrossAttention(nn.Module):
    """Softmax attention from picture tokens (B, N, C) to text tokens (B, L, C).

    Keys and values depend on the prompt alone: `project_context` computes them, once per prompt where memory allows.
    """

    def __init__(self, config: TransformerConfig, *, ops: Any, attention: Attention, device=None, dtype=None) -> None:
        super().__init__()
        size, factory = config.hidden_size, {"device": device, "dtype": dtype}
        self.to_q = ops.Linear(size, size, **factory)
        self.to_k = ops.Linear(size, size, **factory)
        self.to_v = ops.Linear(size, size, **factory)
        self.norm_q = ops.RMSNorm(size, eps=1e-6, **factory) if config.qk_norm else nn.Identity()
        self.norm_k = ops.RMSNorm(size, eps=1e-6, **factory) if config.qk_norm else nn.Identity()
        self.to_out = nn.ModuleList([ops.Linear(size, size, **factory)])
        self.heads = config.num_cross_heads
        self.attention = attention

    def project_context(self, context: Tensor) -> tuple[Tensor, Tensor]:
        return self.norm_k(self.to_k(context)), self.to_v(context)

    def forward(self, x: Tensor, key: Tensor, value: Tensor, context: Context) -> Tensor:
        return self.to_out[0](self.attention(self.norm_q(self.to_q(x)), key, value, self.heads, context))
