"""The pictures that the transformer is trained on, as latents of the finished encoder, computed once for each phase of a training."""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor

from sana_core.config import DOWNSCALE
from sana_core.dcae.autoencoder import DCAE

from .command import Command
from .pictures import LINE_WIDTHS, Drawings, Placed, edge_map, render

ENCODED = 256  # pictures at once


class LatentBank:
    """Latents of B scenes at any size, of about unit variance: float16 on the device, (B, 32, P/32, P/32); with `edges` of their edge maps.

    A size is encoded when it is first asked for, and only the last one is kept.
    """

    def __init__(self, autoencoder: DCAE, drawings: Drawings, scenes: Placed, command: Command, *, edges: bool = False) -> None:
        self.autoencoder, self.drawings, self.scenes, self.command, self.edges = autoencoder, drawings, scenes, command, edges
        self.pixels, self.latents = 0, torch.empty(0)

    def __call__(self, numbers: Tensor, pixels: int) -> Tensor:
        """Latents of the scenes `numbers`, float32."""
        if pixels != self.pixels:
            self.pixels, self.latents = pixels, self._encode(pixels)
        return self.latents[numbers].float()

    @torch.no_grad()
    def _encode(self, pixels: int) -> Tensor:
        count, side = len(self.scenes.numbers), pixels // DOWNSCALE
        latents = torch.empty(count, 32, side, side, dtype=torch.float16, device=self.command.device)
        for part, rows in enumerate(torch.arange(count).split(ENCODED)):
            images = render(self.drawings, rows_of(self.scenes, rows), pixels)
            if self.edges:
                images = edge_map(images, LINE_WIDTHS[part % len(LINE_WIDTHS)])
            with self.command.autocast():
                latents[rows] = self.autoencoder.encode(images).half()
        return latents


def rows_of(scenes: Placed, rows: Tensor) -> Placed:
    return Placed(**{field.name: getattr(scenes, field.name)[rows] for field in fields(Placed)})
