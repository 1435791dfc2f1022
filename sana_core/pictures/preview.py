"""Small pictures in colour from latents, by a linear map that is fitted to an autoencoder.

A cell of a latent has 32 numbers and 32 x 32 pixels. Their colours, averaged to 8 x 8 points, are nearly a linear
function of the numbers of the cell and its eight neighbours. Whenever an autoencoder decodes, latent and picture are an
example of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checkpoint.safetensors_file import read_safetensors
from ..errors import CheckpointError
from ..geometry import DC_AE_F32

POINTS = 8  # on a side of a cell
CHANNELS = DC_AE_F32.channels
INPUTS = 9 * CHANNELS  # of a cell and its neighbours
OUTPUTS = 3 * POINTS**2
RIDGE = 1e-3  # keeps weights of numbers that hardly varied small
LARGEST = 512  # points on a side of a preview; more points than pixels of a screen would cost time


@dataclass(frozen=True)
class PreviewMap:
    """weight: (289, 192) float32: 3 x 3 cells of 32 numbers, and 1 -> red, green and blue of 8 x 8 points, in -1..1."""

    weight: Tensor

    def picture(self, latent: Tensor) -> Tensor:
        """Latent (B, 32, h, w) of about unit variance -> (B, 3, p h, p w) of float32, about -1..1, on its device.

        p: 8, or less for large latents.
        """
        points = POINTS
        while points > 1 and points * max(latent.shape[-2:]) > LARGEST:
            points //= 2
        step = POINTS // points
        weight = self.weight.to(latent.device).unflatten(1, (3, points, step, points, step)).mean((3, 5)).flatten(1)
        kernel, bias = weight[:INPUTS].T.unflatten(1, (CHANNELS, 3, 3)), weight[INPUTS]
        return F.pixel_shuffle(F.conv2d(F.pad(latent.float(), (1, 1, 1, 1), "replicate"), kernel, bias), points)


def read_map(path: str | Path) -> PreviewMap:
    """A map from a safetensors file with one tensor, `weight`. Raises CheckpointError."""
    weight = read_safetensors(Path(path), meta=False)[0].get("weight")
    if weight is None or weight.shape != (INPUTS + 1, OUTPUTS) or not weight.is_floating_point():
        raise CheckpointError(f"{path} is no map for previews: its tensor weight is not ({INPUTS + 1}, {OUTPUTS})")
    return PreviewMap(weight.float())


class PreviewFit:
    """A map from examples: least squares with a little ridge. Two sums are all that is kept of the examples.

    gram: (289, 289), cross: (289, 192), both float64 on the CPU.
    """

    def __init__(self, gram: Tensor | None = None, cross: Tensor | None = None) -> None:
        self.gram = torch.zeros(INPUTS + 1, INPUTS + 1, dtype=torch.float64, device="cpu") if gram is None else gram
        self.cross = torch.zeros(INPUTS + 1, OUTPUTS, dtype=torch.float64, device="cpu") if cross is None else cross

    @property
    def cells(self) -> int:
        """How many examples were seen."""
        return int(self.gram[INPUTS, INPUTS])

    def add(self, latent: Tensor, image: Tensor) -> None:
        """latent: (B, 32, h, w) of about unit variance; image: (B, 3, 32 h, 32 w) in -1..1. Examples that are not
        finite are left out.
        """
        height, width = latent.shape[-2:]
        points = F.adaptive_avg_pool2d(image.detach().float(), (POINTS * height, POINTS * width)).cpu()
        outputs = F.pixel_unshuffle(points, POINTS).movedim(1, -1).flatten(0, 2).double()
        padded = F.pad(latent.detach().float().cpu(), (1, 1, 1, 1), "replicate")
        numbers = F.unfold(padded, 3).transpose(1, 2).flatten(0, 1).double()
        inputs = torch.cat([numbers, torch.ones_like(numbers[:, :1])], dim=1)
        usable = inputs.isfinite().all(1) & outputs.isfinite().all(1)
        inputs, outputs = inputs[usable], outputs[usable]
        gram, cross = inputs.T @ inputs, inputs.T @ outputs  # both, before one of the sums changes
        self.gram += gram
        self.cross += cross

    def map(self) -> PreviewMap | None:
        """The map; None before the first example."""
        if not self.cells:
            return None
        ridge = RIDGE * self.gram.diagonal().mean().expand(INPUTS + 1).clone()
        ridge[INPUTS] = 0.0
        return PreviewMap(torch.linalg.solve(self.gram + ridge.diag(), self.cross).float())


def synthetic_pictures(count: int, size: int) -> Tensor:
    """Pictures (count, 3, size, size) in 0..1 to learn from where there are no others: coloured clouds of every
    fineness, the same each time.
    """
    generator = torch.Generator().manual_seed(0)
    pictures = torch.zeros(count, 3, size, size, dtype=torch.float32, device="cpu")
    for cells in (2, 4, 8, 16):
        clouds = torch.rand(count, 3, cells, cells, generator=generator, dtype=torch.float32, device="cpu") - 0.5
        pictures += F.interpolate(clouds, size=(size, size), mode="bilinear", align_corners=False)
    return (pictures + 0.5).clamp(0.0, 1.0)
