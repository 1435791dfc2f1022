"""One block of the Linear DiT."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import TransformerConfig
from .attention import Attention, Context, CrossAttention, LinearAttention, SelfAttention
from .ffn import GLUMBConv


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer norm without weights (eps 1e-6), then x * (1 + scale) + shift; shift and scale: (B, 1, C)."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


class SanaBlock(nn.Module):
    """Linear attention, cross-attention, Mix-FFN. Cross-attention has neither norm on its input nor gate (SANA, fig.
    5).
    """

    def __init__(self, config: TransformerConfig, *, ops: Any, attention: Attention, device=None, dtype=None) -> None:
        super().__init__()
        factory = {"ops": ops, "device": device, "dtype": dtype}
        self.attn1 = LinearAttention(config, **factory)
        self.attn2 = CrossAttention(config, attention=attention, **factory)
        self.ff = GLUMBConv(config, **factory)
        self.scale_shift_table = nn.Parameter(torch.zeros(6, config.hidden_size, device=device, dtype=dtype))

    def forward(
        self,
        x: Tensor,
        keys_values: tuple[Tensor, Tensor],
        context: Context,
        modulation: Tensor,
        grid: tuple[int, int],
        attend: SelfAttention | None = None,
    ) -> Tensor:
        """x: (B, h*w, C); keys and values of the caption: (B, L, C); modulation: (B, 6, C) -> (B, h*w, C).

        attend: in place of the linear self-attention.
        """
        table = self.scale_shift_table.to(x) + modulation
        shift_attn, scale_attn, gate_attn, shift_ff, scale_ff, gate_ff = table.chunk(6, dim=1)
        x = x + gate_attn * self.attn1(modulated_norm(x, shift_attn, scale_attn), attend)
        x = x + self.attn2(x, *keys_values, context)
        return x + gate_ff * self.ff(modulated_norm(x, shift_ff, scale_ff), grid)
