"""DC-AE f32c32, the deep-compression autoencoder of SANA (arXiv:2410.10733; SANA, arXiv:2410.10629, sec. 2.1)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import DOWNSCALE, AutoencoderConfig, StageConfig
from ..errors import InputError
from .layers import Downsample, EfficientViTBlock, InterpolateUpsample, ResBlock, RMSNorm2d, ShuffleUpsample

BLOCKS = {"res": ResBlock, "vit": EfficientViTBlock}


def stage_blocks(stage: StageConfig, **factory: Any) -> list[nn.Module]:
    return [BLOCKS[stage.block](stage.channels, **factory) for _ in range(stage.depth)]


class Encoder(nn.Module):
    """(B, 3, H, W) in -1..1 -> raw latent (B, 32, H/32, W/32). Deterministic: there is no KL sampling."""

    def __init__(self, config: AutoencoderConfig, *, ops: Any, device=None, dtype=None) -> None:
        super().__init__()
        factory = {"device": device, "dtype": dtype}
        stages = config.encoder
        self.latent_channels = config.latent_channels
        self.conv_in = ops.Conv2d(3, stages[0].channels, 3, padding=1, **factory)
        layers = [stage_blocks(stage, ops=ops, **factory) for stage in stages]
        for blocks, (stage, deeper) in zip(layers, pairwise(stages)):
            blocks.append(Downsample(stage.channels, deeper.channels, ops=ops, **factory))
        self.down_blocks = nn.ModuleList(nn.Sequential(*blocks) for blocks in layers)
        self.conv_out = ops.Conv2d(stages[-1].channels, config.latent_channels, 3, padding=1, **factory)

    def forward(self, image: Tensor) -> Tensor:
        x = self.conv_in(image)
        for stage in self.down_blocks:
            x = stage(x)
        return self.conv_out(x) + x.unflatten(1, (self.latent_channels, -1)).mean(dim=2)


class Decoder(nn.Module):
    """Raw latent (B, 32, h, w) -> (B, 3, 32 h, 32 w), about -1..1, not clamped."""

    def __init__(self, config: AutoencoderConfig, *, ops: Any, device=None, dtype=None) -> None:
        super().__init__()
        factory = {"ops": ops, "device": device, "dtype": dtype}
        stages = config.decoder
        self.conv_in = ops.Conv2d(config.latent_channels, stages[-1].channels, 3, padding=1, device=device, dtype=dtype)
        layers = [stage_blocks(stage, **factory) for stage in stages]
        for blocks, (stage, deeper) in zip(layers, pairwise(stages)):
            if stage.depth:
                blocks.insert(0, _upsample(config.lite, deeper.channels, stage.channels, **factory))
        self.up_blocks = nn.ModuleList(nn.Sequential(*blocks) for blocks in layers)
        top = next(stage for stage in stages if stage.depth)
        self.norm_out = RMSNorm2d(top.channels, device=device, dtype=dtype)
        if config.lite:
            self.activation, self.conv_out = F.silu, ShuffleUpsample(top.channels, 3, shortcut=False, **factory)
        else:
            self.activation, self.conv_out = F.relu, ops.Conv2d(top.channels, 3, 3, padding=1, device=device, dtype=dtype)

    def forward(self, latent: Tensor) -> Tensor:
        x = self.conv_in(latent)
        x = x + latent.repeat_interleave(x.shape[1] // latent.shape[1], dim=1)
        for stage in reversed(self.up_blocks):
            x = stage(x)
        return self.conv_out(self.activation(self.norm_out(x)))


def _upsample(lite: bool, in_channels: int, out_channels: int, **factory: Any) -> nn.Module:
    if lite:
        return ShuffleUpsample(in_channels, out_channels, shortcut=True, **factory)
    return InterpolateUpsample(in_channels, out_channels, **factory)


class DCAE(nn.Module):
    """Encoder and decoder with the scale of SANA's latents: `encode` multiplies by 0.41407, `decode` divides."""

    def __init__(self, config: AutoencoderConfig, *, ops: Any = torch.nn, device=None, dtype=None) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config, ops=ops, device=device, dtype=dtype)
        self.decoder = Decoder(config, ops=ops, device=device, dtype=dtype)

    def encode(self, image: Tensor) -> Tensor:
        """image: (B, 3, H, W) in -1..1, H and W multiples of 32 -> latent (B, 32, H/32, W/32) of about unit variance."""
        if image.ndim != 4 or image.shape[1] != 3 or image.shape[-1] % DOWNSCALE or image.shape[-2] % DOWNSCALE:
            expected = f"(B, 3, H, W) with H and W divisible by {DOWNSCALE}"
            raise InputError(f"DC-AE encodes {expected}, got {tuple(image.shape)}: crop or pad the picture")
        return self.encoder(image) * self.config.scaling_factor

    def decode(self, latent: Tensor) -> Tensor:
        """latent: (B, 32, h, w) of about unit variance -> image (B, 3, 32 h, 32 w), about -1..1, not clamped."""
        channels = self.config.latent_channels
        if latent.ndim != 4 or latent.shape[1] != channels:
            found = tuple(latent.shape)
            raise InputError(f"DC-AE decodes latents (B, {channels}, h, w), got {found}: these latents come from another model")
        return self.decoder(latent / self.config.scaling_factor)
