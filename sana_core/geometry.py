"""How latents lie: their cells, the tokens the transformer makes of them, and the pixels a cell stands for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class LatentGeometry:
    """A latent space. `downscale`: pixels a cell is wide and high; `scaling_factor` gives raw latents unit variance."""

    channels: int
    downscale: int
    scaling_factor: float

    def in_pixels(self, cells: Sequence[int]) -> tuple[int, int]:
        """(height, width) in pixels of a latent whose shape ends in (rows, columns)."""
        return cells[-2] * self.downscale, cells[-1] * self.downscale

    def in_cells(self, pixels: Sequence[int]) -> tuple[int, int]:
        """(rows, columns) of whole cells in a picture whose shape ends in (height, width)."""
        return pixels[-2] // self.downscale, pixels[-1] // self.downscale


DC_AE_F32 = LatentGeometry(channels=32, downscale=32, scaling_factor=0.41407)
"""Of DC-AE f32c32 sana-1.0, sana-1.1 and its Lite (mit-han-lab's dc-ae-f32c32-sana configurations)."""


class Grid(NamedTuple):
    """The cells of a picture's latent, each of which is a token, row by row (SANA's patch size is 1)."""

    rows: int
    columns: int

    @classmethod
    def of(cls, latent: Tensor) -> Grid:
        """latent: (B, C, rows, columns)."""
        return cls(latent.shape[-2], latent.shape[-1])

    @staticmethod
    def tokens(maps: Tensor) -> Tensor:
        """(B, C, rows, columns) -> (B, rows * columns, C)."""
        return maps.flatten(2).transpose(1, 2)

    def maps(self, tokens: Tensor) -> Tensor:
        """(B, rows * columns, C) -> (B, C, rows, columns), a view that is channels-last in memory."""
        return tokens.transpose(1, 2).unflatten(2, self)
