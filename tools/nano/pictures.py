"""Drawings as tensors, and scenes drawn from them. Pictures are -1..1, (B, 3, P, P)."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .concepts import Concept, palette
from .scenes import GEOMETRY, Scene

EDGE = 0.25  # least change of a blurred pixel to its second neighbour, of 2
MONOCHROME = "monochrome-"  # before the name of a style: its drawings without their colours, what the style LoRA learns
LINE_WIDTHS = (1, 3, 7)  # that the ControlNet is trained on: Canny's, its own, and those of soft edges


class Drawings:
    """Drawings by their key "style/hexcode": uint8 premultiplied RGBA (N, 4, P, P) on one device.

    The style may begin with MONOCHROME.
    """

    def __init__(self, path: Path, keys: Sequence[str], device: str | torch.device = "cpu") -> None:
        self.index = {key: number for number, key in enumerate(keys)}
        with zipfile.ZipFile(path) as archive:
            rgba = np.stack(
                [
                    _rgba(archive.read(f"{key.removeprefix(MONOCHROME)}.webp"), key.startswith(MONOCHROME))
                    for key in keys
                ]
            )
        alpha = rgba[..., 3:].astype(np.uint16)
        rgba[..., :3] = (rgba[..., :3] * alpha + 127) // 255
        self.rgba = torch.from_numpy(rgba).permute(0, 3, 1, 2).contiguous().to(device)

    def __len__(self) -> int:
        return len(self.rgba)

    def take(self, numbers: Tensor) -> Tensor:
        """(B,) -> (B, 4, P, P) in 0..1."""
        return self.rgba[numbers].float() / 255


def _rgba(webp: bytes, monochrome: bool) -> np.ndarray:
    """(P, P, 4) of uint8."""
    picture = Image.open(io.BytesIO(webp)).convert("RGBA")
    return np.asarray(picture.convert("LA").convert("RGBA") if monochrome else picture)


def drawing_keys(concepts: list[Concept]) -> list[str]:
    """The keys of all drawings that have a name, concept by concept."""
    return [f"{style}/{concept.hexcode}" for concept in concepts for style in concept.styles]


@dataclass(frozen=True, kw_only=True)
class Placed:
    """Up to two drawings in each of B pictures, by number (B, 2), -1 for none; scale (B, 2); shift (B, 2, 2) in half
    sides, right and down; mirror (B,); colour (B, 3) in 0..1.
    """

    numbers: Tensor
    scale: Tensor
    shift: Tensor
    mirror: Tensor
    colour: Tensor


def placed(scenes: Sequence[Scene], concepts: list[Concept], styles: Sequence[str], index: dict[str, int]) -> Placed:
    """Scenes as numbers; index: of `Drawings`."""
    numbers, scale, shift = torch.full((len(scenes), 2), -1), torch.ones(len(scenes), 2), torch.zeros(len(scenes), 2, 2)
    for row, scene in enumerate(scenes):
        things = [number for number in (scene.concept, scene.second) if number is not None]
        for column, (thing, (size, place)) in enumerate(zip(things, GEOMETRY[scene.layout], strict=True)):
            numbers[row, column] = index[f"{styles[scene.style]}/{concepts[thing].hexcode}"]
            scale[row, column], shift[row, column] = size, torch.tensor(place)
    colours = {name: torch.tensor(colour["rgb"]) / 255 for name, colour in palette().items()}
    return Placed(
        numbers=numbers,
        scale=scale,
        shift=shift,
        mirror=torch.tensor([scene.mirror for scene in scenes]),
        colour=torch.stack([colours[scene.colour] for scene in scenes]),
    )


def render(drawings: Drawings, scenes: Placed, pixels: int) -> Tensor:
    """Pictures (B, 3, pixels, pixels) on the drawings' device."""
    device = drawings.rgba.device
    image = scenes.colour.to(device)[:, :, None, None].expand(-1, -1, pixels, pixels)
    mirror = scenes.mirror.to(device)
    for column in range(2):
        numbers, scale, shift = (
            values[:, column].to(device) for values in (scenes.numbers, scenes.scale, scenes.shift)
        )
        layer = place(drawings.take(numbers.clamp(min=0)), scale, shift, mirror, pixels)
        layer = layer * (numbers >= 0)[:, None, None, None]
        image = layer[:, :3] + (1 - layer[:, 3:]) * image
    return image * 2 - 1


def place(rgba: Tensor, scale: Tensor, shift: Tensor, mirror: Tensor, pixels: int) -> Tensor:
    """Mirror premultiplied RGBA (B, 4, P, P) where `mirror` (B,), resize it about its centre by `scale` (B,), move it
    by `shift` (B, 2).

    Returns (B, 4, pixels, pixels). What shrinks is averaged first, so that nothing aliases.
    """
    rgba = torch.where(mirror[:, None, None, None], rgba.flip(-1), rgba)
    matrix = torch.zeros(len(rgba), 2, 3, device=rgba.device)
    matrix[:, 0, 0] = matrix[:, 1, 1] = 1 / scale
    matrix[:, :, 2] = -shift / scale[:, None]
    grid = F.affine_grid(matrix, [len(rgba), 4, pixels, pixels], align_corners=False)
    halvings = ((rgba.shape[-1] / pixels) / scale).log2().round().clamp(min=0).int()
    output = rgba.new_zeros(len(rgba), 4, pixels, pixels)
    for count in range(int(halvings.max()) + 1):
        chosen = (halvings == count).nonzero()[:, 0]
        if len(chosen):
            soft = F.avg_pool2d(rgba[chosen], 2**count) if count else rgba[chosen]
            output[chosen] = F.grid_sample(
                soft, grid[chosen], mode="bilinear", padding_mode="zeros", align_corners=False
            )
    return output


def edge_map(images: Tensor, width: int = 3) -> Tensor:
    """White lines on black where neighbouring pixels differ: what the ControlNet is trained on and shown.

    images: (B, 3, P, P) in -1..1 -> the same shape, -1 or 1. width: of the lines, odd, in pixels, about: 1 is like
    Canny's.
    """
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    across = (blurred[..., :, 2:] - blurred[..., :, :-2])[..., 1:-1, :].abs().amax(dim=1, keepdim=True)
    down = (blurred[..., 2:, :] - blurred[..., :-2, :])[..., :, 1:-1].abs().amax(dim=1, keepdim=True)
    # thin to the crests, each across its own direction, so that soft and hard edges become lines of one width and stay
    # whole
    crest = ((across >= down) & _crest(across, (1, 3))) | ((down >= across) & _crest(down, (3, 1)))
    lines = F.pad((crest & (torch.maximum(across, down) > EDGE)).float(), (1, 1, 1, 1))
    lines = F.max_pool2d(lines, width, stride=1, padding=width // 2)
    return (lines * 2 - 1).expand(-1, 3, -1, -1)


def _crest(strength: Tensor, window: tuple[int, int]) -> Tensor:
    """Where (B, 1, H, W) is not less than its two neighbours along the longer side of `window`."""
    return strength >= F.max_pool2d(strength, window, stride=1, padding=(window[0] // 2, window[1] // 2))
