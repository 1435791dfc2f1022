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
from ..device import has_float64
from ..errors import InputError
from ..geometry import Grid
from ..kit import Kit

FREQUENCIES = 256  # width of the timestep sinusoid
GUIDANCE_FACTOR = 0.1  # Sprint sees 0.1 * guidance_scale (SANA-Sprint, arXiv:2503.09641)


class PatchEmbed(nn.Module):
    """Latent (B, 32, h, w) -> tokens (B, h*w, C), row by row, with the positions of the 2K and 4K models."""

    def __init__(self, config: TransformerConfig, kit: Kit) -> None:
        super().__init__()
        self.proj = kit.conv2d(config.latent_channels, config.hidden_size, 1)
        self.position = SinCosPosition(config.position, config.hidden_size) if config.position else nn.Identity()

    def forward(self, latent: Tensor) -> Tensor:
        return Grid.tokens(self.position(self.proj(latent))).contiguous()  # as all that follows is laid out


class SinCosPosition(nn.Module):
    """Adds a fixed sin-cos table to maps (B, C, h, w): half of the channels encode the column, the rest the row.

    Every grid is stretched to [0, base_size / interpolation) on both axes (PixArt-Sigma, arXiv:2403.04692). The tables
    of the two axes are computed on the device in every forward, (w, C / 2) and (h, C / 2).
    """

    def __init__(self, config: PositionConfig, channels: int) -> None:
        super().__init__()
        self.config, self.channels = config, channels

    def forward(self, maps: Tensor) -> Tensor:
        height, width = maps.shape[-2:]
        columns = self.axis_table(width, maps.device).to(maps).T[:, None, :].expand(-1, height, -1)
        rows = self.axis_table(height, maps.device).to(maps).T[:, :, None].expand(-1, -1, width)
        return maps + torch.cat([columns, rows])

    def axis_table(self, length: int, device: torch.device) -> Tensor:
        """Sines, then cosines, of the places along an axis, (length, C / 2), float32, computed in float64."""
        exact: dict[str, Any] = {"dtype": torch.float64, "device": device if has_float64(device) else "cpu"}
        place = torch.arange(length, **exact) * self.config.base_size / length / self.config.interpolation
        count = self.channels // 4
        frequency = 10000.0 ** (-torch.arange(count, **exact) / count)
        angle = torch.outer(place, frequency)
        return torch.cat([angle.sin(), angle.cos()], dim=-1).float()


def sinusoid(value: Tensor) -> Tensor:
    """(B,) -> (B, 256), float32: cosines, then sines, of `value` at frequencies from 1 down to 1/10000."""
    half = FREQUENCIES // 2
    frequency = torch.exp(torch.arange(half, dtype=torch.float32, device=value.device) * (-math.log(10000.0) / half))
    angle = value.float()[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


class SinusoidEmbedder(nn.Module):
    """(B,) -> (B, C): sinusoid, then Linear, SiLU, Linear."""

    def __init__(self, hidden_size: int, kit: Kit) -> None:
        super().__init__()
        self.linear_1 = kit.linear(FREQUENCIES, hidden_size)
        self.linear_2 = kit.linear(hidden_size, hidden_size)

    def forward(self, value: Tensor, dtype: torch.dtype) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(sinusoid(value).to(dtype))))


class TimeEmbed(nn.Module):
    """Timestep (B,) in 0..1000 -> shared modulation (B, 6, C) and the embedding itself (B, C) for the final layer
    (AdaLN-single).
    """

    def __init__(self, config: TransformerConfig, kit: Kit) -> None:
        super().__init__()
        self.emb = nn.ModuleDict({"timestep_embedder": SinusoidEmbedder(config.hidden_size, kit)})
        self.linear = kit.linear(config.hidden_size, 6 * config.hidden_size)

    def forward(self, timestep: Tensor, guidance: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        embedded = self.emb["timestep_embedder"](timestep, dtype)
        return self.linear(F.silu(embedded)).unflatten(-1, (6, -1)), embedded


class GuidedTimeEmbed(nn.Module):
    """Sprint's time embedding: the guidance scale is added before the modulation, so that it reaches the final layer
    too.
    """

    def __init__(self, config: TransformerConfig, kit: Kit) -> None:
        super().__init__()
        self.timestep_scale = config.timestep_scale
        self.timestep_embedder = SinusoidEmbedder(config.hidden_size, kit)
        self.guidance_embedder = SinusoidEmbedder(config.hidden_size, kit)
        self.linear = kit.linear(config.hidden_size, 6 * config.hidden_size)

    def forward(self, timestep: Tensor, guidance: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        if guidance is None:
            raise InputError("SANA-Sprint needs its guidance scale as an input (4.5 as released), got none")
        embedded = self.timestep_embedder(timestep.float() * self.timestep_scale, dtype)
        embedded = embedded + self.guidance_embedder(guidance.float() * GUIDANCE_FACTOR, dtype)
        return self.linear(F.silu(embedded)).unflatten(-1, (6, -1)), embedded


class CaptionProjection(nn.Module):
    """Text states (B, L, caption channels) -> (B, L, C): Linear, GELU (tanh), Linear."""

    def __init__(self, config: TransformerConfig, kit: Kit) -> None:
        super().__init__()
        self.linear_1 = kit.linear(config.caption_channels, config.hidden_size)
        self.linear_2 = kit.linear(config.hidden_size, config.hidden_size)

    def forward(self, context: Tensor) -> Tensor:
        return self.linear_2(F.gelu(self.linear_1(context), approximate="tanh"))
