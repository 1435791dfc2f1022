"""What the autoencoder sees of an example: its picture, or what a ControlNet follows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ...pictures.soft_edge import soft_edge
from .buckets import Size, fitted
from .example import Example

Lines = Literal["soft", "thin"]
SIGMA = 2.0  # of the blur before edges are looked for, in pixels
STRONGEST = 0.98  # the share of pixels with weaker edges than those that become white
FAINTEST = 0.02  # edges that never become white, however few there are; in grey levels per pixel, of 0..1


class View(Protocol):
    """name: part of the cache's keys. All raise InputError for pictures that cannot be read."""

    @property
    def name(self) -> str: ...

    def digest(self, example: Example) -> str: ...

    def pixels(self, example: Example, size: Size) -> Tensor: ...


@dataclass(frozen=True)
class PictureView:
    """The picture itself."""

    name: str = "picture"

    def digest(self, example: Example) -> str:
        return example.digest

    def pixels(self, example: Example, size: Size) -> Tensor:
        """(1, 3, H, W) in -1..1."""
        return fitted(example.load(), size)


@dataclass(frozen=True)
class ConditionView:
    """The condition picture, fitted as the picture is.

    lines: "soft" or "thin" make it lines of one width, as `soft_edge`: "soft" for edge maps as HED's, "thin" for
    Canny's. None takes it as it is. An example without a condition picture gets the edges of its own picture.
    """

    lines: Lines | None = None

    @property
    def name(self) -> str:
        return f"condition {self.lines}"

    def digest(self, example: Example) -> str:
        return f"edges {example.digest}" if example.condition is None else example.condition.digest

    def pixels(self, example: Example, size: Size) -> Tensor:
        """(1, 3, H, W) in -1..1."""
        if example.condition is None:
            return soft_edge(edge_map(fitted(example.load(), size))) * 2.0 - 1.0
        pixels = fitted(example.load_condition(), size)
        if self.lines is None:
            return pixels
        return soft_edge(pixels.add(1.0).div(2.0), thin=self.lines == "thin") * 2.0 - 1.0


def edge_map(pixels: Tensor) -> Tensor:
    """A picture (B, 3, H, W) in -1..1 -> how strong its edges are, (B, 1, H, W) in 0..1, several pixels wide."""
    grey = pixels.mean(dim=1, keepdim=True) / 2.0
    reach = int(3 * SIGMA)
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / SIGMA) ** 2).to(grey)
    weights = weights / weights.sum()
    blurred = F.conv2d(F.pad(grey, (reach,) * 4, mode="replicate"), weights.view(1, 1, 1, -1))
    blurred = F.pad(F.conv2d(blurred, weights.view(1, 1, -1, 1)), (1,) * 4, mode="replicate")
    across = (blurred[..., 1:-1, 2:] - blurred[..., 1:-1, :-2]) / 2.0
    down = (blurred[..., 2:, 1:-1] - blurred[..., :-2, 1:-1]) / 2.0
    strength = torch.hypot(across, down)
    ranked = strength.flatten(1).sort(dim=1).values
    white = ranked[:, int(STRONGEST * (ranked.shape[1] - 1))].clamp(min=FAINTEST)
    return (strength / white.view(-1, 1, 1, 1)).clamp(max=1.0)
