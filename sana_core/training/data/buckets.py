"""Which size each picture is trained at, and how it comes to it."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image
from torch import Tensor

from ...errors import InputError
from ...geometry import DC_AE_F32
from ...latents import RESOLUTION_BINS, closest_bin, latent_size
from ...pictures.images import picture_tensor
from .example import Example

Size = tuple[int, int]  # (width, height) in pixels
FLATTEST = 4.0  # of the sizes that are trained, as in RESOLUTION_BINS


def trained_size(width: int, height: int, native: int, *, square: bool = False) -> Size:
    """The size with the aspect ratio nearest to that of a picture, for a model whose own square has `native` pixels a
    side.

    One of those that released models of 512, 1024, 2048 or 4096 px were trained on; for others one of the same area, up
    to 4:1. square: the model's own square, whatever the picture's ratio. Raises InputError.
    """
    if square or native not in RESOLUTION_BINS:
        latent_size(native, native)
    if width < 1 or height < 1:
        raise InputError(f"a picture needs a positive size, got {width} x {height}")
    if square:
        return native, native
    if native in RESOLUTION_BINS:
        high, wide = closest_bin(height, width, native)
        return wide, high
    cell = DC_AE_F32.downscale
    stretch = min(max(width / height, 1 / FLATTEST), FLATTEST) ** 0.5
    wide, high = (max(1, round(native * factor / cell)) * cell for factor in (stretch, 1 / stretch))
    return wide, high


def trained_sizes(examples: Sequence[Example], native: int, *, square: bool = False) -> tuple[Size, ...]:
    """The size of each, as `trained_size`."""
    return tuple(trained_size(example.width, example.height, native, square=square) for example in examples)


def is_enlarged(example: Example, size: Size) -> bool:
    return example.width < size[0] or example.height < size[1]


def fitted(picture: Image.Image, size: Size) -> Tensor:
    """An RGB picture as the autoencoder takes it: (1, 3, H, W) in -1..1. Resized (Lanczos) until it covers the size,
    and cropped at the centre.
    """
    return picture_tensor(picture, *size)
