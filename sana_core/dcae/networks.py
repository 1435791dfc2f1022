"""The encoder and the decoder of DC-AE f32c32 (arXiv:2410.10733)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise, takewhile
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import AutoencoderConfig, StageConfig
from ..kit import Kit
from .layers import (
    Downsample,
    EfficientViTBlock,
    InterpolateUpsample,
    ResBlock,
    RMSNorm2d,
    ShuffleUpsample,
    in_place,
    norm_bytes,
)
from .strips import ChainLayer, Local, conv3x3_reach

BLOCKS = {"res": ResBlock, "vit": EfficientViTBlock}


def stage_blocks(stage: StageConfig, kit: Kit) -> list[nn.Module]:
    return [BLOCKS[stage.block](stage.channels, kit) for _ in range(stage.depth)]


def tiled_stages(stages: Sequence[StageConfig]) -> int:
    """How many of the stages, highest resolution first, run in tiles: convolutions only, and at most three.

    These three hold the large maps. A fourth, which Lite could run in tiles too, would need more work around a tile of
    512 than in it.
    """
    return min(3, len(list(takewhile(lambda stage: stage.block == "res", stages))))


class Encoder(nn.Module):
    """(B, 3, H, W) in -1..1 -> raw latent (B, 32, H/32, W/32). Deterministic: there is no KL sampling."""

    def __init__(self, config: AutoencoderConfig, kit: Kit) -> None:
        super().__init__()
        self.stages = stages = config.encoder
        self.geometry = config.geometry
        self.map_channels = stages[tiled_stages(stages)].channels
        self.conv_in = kit.conv2d(3, stages[0].channels, 3, padding=1)
        layers = [stage_blocks(stage, kit) for stage in stages]
        for blocks, (stage, deeper) in zip(layers, pairwise(stages)):
            blocks.append(Downsample(stage.channels, deeper.channels, kit))
        self.down_blocks = nn.ModuleList(nn.Sequential(*blocks) for blocks in layers)
        self.conv_out = kit.conv2d(stages[-1].channels, config.geometry.channels, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        x = self.conv_in(channels_last(image))
        for block in _blocks(self.down_blocks):
            x = block(x)
        return self.head(x)

    def head(self, x: Tensor) -> Tensor:
        return self.conv_out(x) + x.unflatten(1, (self.geometry.channels, -1)).mean(dim=2)

    def chains(self) -> tuple[list[Local], list[Local]]:
        """All layers up to the head in two chains: picture to the map that the low-resolution stages see whole, and on
        from there.
        """
        tiled = tiled_stages(self.stages)
        top = self.stages[0].channels
        conv_in = ChainLayer(
            run=self.conv_in, reach=conv3x3_reach, out_channels=top, working_bytes=lambda size: top * size
        )
        return [conv_in, *_layers(self.down_blocks[:tiled])], _layers(self.down_blocks[tiled:])


class Decoder(nn.Module):
    """Raw latent (B, 32, h, w) -> (B, 3, 32 h, 32 w), about -1..1, not clamped."""

    def __init__(self, config: AutoencoderConfig, kit: Kit) -> None:
        super().__init__()
        self.stages = stages = config.decoder
        self.geometry = config.geometry
        self.conv_in = kit.conv2d(config.geometry.channels, stages[-1].channels, 3, padding=1)
        layers = [stage_blocks(stage, kit) for stage in stages]
        for blocks, (stage, deeper) in zip(layers, pairwise(stages)):
            if stage.depth:
                blocks.insert(0, _upsample(config.lite, deeper.channels, stage.channels, kit))
        self.up_blocks = nn.ModuleList(nn.Sequential(*blocks) for blocks in layers)
        self.top_channels = next(stage.channels for stage in stages if stage.depth)
        self.norm_out = RMSNorm2d(self.top_channels, kit)
        if config.lite:
            self.activation, self.conv_out = F.silu, ShuffleUpsample(self.top_channels, 3, kit, shortcut=False)
        else:
            self.activation, self.conv_out = F.relu, kit.conv2d(self.top_channels, 3, 3, padding=1)

    def forward(self, latent: Tensor) -> Tensor:
        x = self.stem(latent)
        for block in _blocks(reversed(self.up_blocks)):
            x = block(x)
        return self.head(x)

    def stem(self, latent: Tensor) -> Tensor:
        """The first convolution, plus each channel of the latent repeated in a row."""
        x = self.conv_in(channels_last(latent))
        x.unflatten(1, (latent.shape[1], -1)).add_(latent.unsqueeze(2))
        return x

    def head(self, x: Tensor) -> Tensor:
        return self.conv_out(in_place(self.activation, self.norm_out(x)))

    def chains(self) -> tuple[list[Local], list[Local]]:
        """All layers after the stem in two chains: the low-resolution stages, which see all of the picture, and on to
        the picture.
        """
        tiled = tiled_stages(self.stages)
        out, top = self.conv_out, self.top_channels
        reach, scale = (out.reach, out.scale) if isinstance(out, ShuffleUpsample) else (conv3x3_reach, 1)

        def working_bytes(size: int) -> int:
            """What the norm holds without the input."""
            return top * (norm_bytes(size) - size) // scale**2

        head = ChainLayer(run=self.head, reach=reach, scale=scale, out_channels=3, working_bytes=working_bytes)
        return _layers(reversed(self.up_blocks[tiled:])), [*_layers(reversed(self.up_blocks[:tiled])), head]


def channels_last(x: Tensor) -> Tensor:
    """The same map with its channels side by side in memory, as all maps after it then are."""
    return x.contiguous(memory_format=torch.channels_last)


def _blocks(stages: Iterable[nn.Module]) -> list[nn.Module]:
    """All blocks in order. Iterating over them, not calling `nn.Sequential`, frees the input of a stage early."""
    return [block for stage in stages for block in stage.children()]


def _layers(stages: Iterable[nn.Module]) -> list[Any]:
    """The local layers of some stages in a row, and the attentions between them."""
    return [
        layer
        for block in _blocks(stages)
        for layer in (block.children() if isinstance(block, EfficientViTBlock) else [block])
    ]


def _upsample(lite: bool, in_channels: int, out_channels: int, kit: Kit) -> nn.Module:
    if lite:
        return ShuffleUpsample(in_channels, out_channels, kit, shortcut=True)
    return InterpolateUpsample(in_channels, out_channels, kit)
