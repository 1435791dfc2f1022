"""What enters the transformer: position, timestep, guidance and caption. Parameter names follow diffusers'
`SanaTransformer2DModel`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import PositionConfig, TransformerConfig
from ..errors import InputError

FREQUENCIES = 256  # width of the timestep sinusoid
GUIDANCE_SCALE = 0.1  # Sprint sees 0.1 * guidance_scale (SANA-Sprint, arXiv:2503.09641)


class PatchEmbed(nn.Module):
    """Latent (B, 32, h, w) -> tokens (B, h*w, C), row-major, with the position table of the 2K and 4K models."""

    def __init__(self, config: TransformerConfig, *, ops: Any, device=None, dtype=None) -> None:
        super().__init__()
        self.proj = ops.Conv2d(config.latent_channels, config.hidden_size, 1, device=device, dtype=dtype)
        self.position = config.position

    def forward(self, latent: Tensor) -> Tensor:
        tokens = self.proj(latent).flatten(2).transpose(1, 2)
        if self.position is None:
            return tokens
        height, width = latent.shape[-2:]
        return tokens + position_table(height, width, tokens.shape[-1], self.position).to(tokens)


def position_table(height: int, width: int, channels: int, config: PositionConfig) -> Tensor:
    """Sin-cos table (h*w, C), float32: the first half of the channels encodes the column, the second the row.

    Every grid is stretched to [0, base_size / interpolation) on both axes (PixArt-Sigma, arXiv:2403.04692).
    """
    columns = _axis_table(width, channels // 2, config)[None, :].expand(height, -1, -1)
    rows = _axis_table(height, channels // 2, config)[:, None].expand(-1, width, -1)
    return torch.cat([columns, rows], dim=-1).flatten(0, 1).float()


def _axis_table(length: int, channels: int, config: PositionConfig) -> Tensor:
    place = torch.arange(length, dtype=torch.float64) * config.base_size / length / config.interpolation
    frequency = 10000.0 ** (-torch.arange(channels // 2, dtype=torch.float64) / (channels // 2))
    angle = torch.outer(place, frequency)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def sinusoid(value: Tensor) -> Tensor:
    """(B,) -> (B, 256), float32: cosines, then sines, of `value` at frequencies from 1 down to 1/10000."""
    half = FREQUENCIES // 2
    frequency = torch.exp(torch.arange(half, dtype=torch.float32, device=value.device) * (-math.log(10000.0) / half))
    angle = value.float()[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


class SinusoidEmbedder(nn.Module):
    """(B,) -> (B, C): sinusoid, then Linear, SiLU, Linear."""

    def __init__(self, hidden_size: int, *, ops: Any, device=None, dtype=None) -> None:
        super().__init__()
        self.linear_1 = ops.Linear(FREQUENCIES, hidden_size, device=device, dtype=dtype)
        self.linear_2 = ops.Linear(hidden_size, hidden_size, device=device, dtype=dtype)

    def forward(self, value: Tensor, dtype: torch.dtype) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(sinusoid(value).to(dtype))))


class TimeEmbed(nn.Module):
    """Timestep (B,) in 0..1000 -> shared modulation (B, 6, C) and the embedding itself (B, C) for the final layer
    (AdaLN-single).
    """

    def __init__(self, config: TransformerConfig, *, ops: Any, device=None, dtype=None) -> None:
        super().__init__()
        factory = {"ops": ops, "device": device, "dtype": dtype}
        self.emb = nn.ModuleDict({"timestep_embedder": SinusoidEmbedder(config.hidden_size, **factory)})
        self.linear = ops.Linear(config.hidden_size, 6 * config.hidden_size, device=device, dtype=dtype)

    def forward(self, timestep: Tensor, guidance: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        embedded = self.emb["timestep_embedder"](timestep, dtype)
        return self.linear(F.silu(embedded)).unflatten(-1, (6, -1)), embedded


class GuidedTimeEmbed(nn.Module):
    """Sprint's time embedding: the guidance scale is added before the modulation, so that it reaches the final layer
    too.
    """

    def __init__(self, config: TransformerConfig, *, ops: Any, device=None, dtype=None) -> None:
        super().__init__()
        factory = {"ops": ops, "device": device, "dtype": dtype}
        self.timestep_scale = config.timestep_scale
        self.timestep_embedder = SinusoidEmbedder(config.hidden_size, **factory)
        self.guidance_embedder = SinusoidEmbedder(config.hidden_size, **factory)
        self.linear = ops.Linear(config.hidden_size, 6 * config.hidden_size, device=device, dtype=dtype)

    def forward(self, timestep: Tensor, guidance: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        if guidance is None:
            raise InputError("SANA-Sprint needs its guidance scale as an input (4.5 as released), got none")
        embedded = self.timestep_embedder(timestep.float() * self.timestep_scale, dtype)
        embedded = embedded + self.guidance_embedder(guidance.float() * GUIDANCE_SCALE, dtype)
        return self.linear(F.silu(embedded)).unflatten(-1, (6, -1)), embedded


class CaptionProjection(nn.Module):
    """Text states (B, L, caption channels) -> (B, L, C): Linear, GELU (tanh), Linear."""

    def __init__(self, config: TransformerConfig, *, ops: Any, device=None, dtype=None) -> None:
        super().__init__()
        self.linear_1 = ops.Linear(config.caption_channels, config.hidden_size, device=device, dtype=dtype)
        self.linear_2 = ops.Linear(config.hidden_size, config.hidden_size, device=device, dtype=dtype)

    def forward(self, context: Tensor) -> Tensor:
        return self.linear_2(F.gelu(self.linear_1(context), approximate="tanh"))
