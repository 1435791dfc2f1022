"""Pictures of every kind that Pillow reads, as 8-bit RGB or grey.

Pillow's own conversions cut 16-bit and floating-point pictures off at 255, and show the colours hidden under
transparent pixels.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from ..errors import InputError

PREMULTIPLIED = {"RGBa": "RGBA", "La": "LA"}
TRANSPARENT = ("RGBA", "LA", "PA")


def rgb(picture: Image.Image, background: str = "white") -> Image.Image:
    """Mode RGB. Transparent pixels show the background, "white" or "black". Raises InputError."""
    return _convert(picture, "RGB", background)


def grey(picture: Image.Image, background: str = "black") -> Image.Image:
    """Mode L. Transparent pixels show the background, "white" or "black". Raises InputError."""
    return _convert(picture, "L", background)


def _convert(picture: Image.Image, mode: str, background: str) -> Image.Image:
    try:
        picture = _eight_bit(picture)
        picture = picture.convert(PREMULTIPLIED.get(picture.mode, picture.mode))
        if picture.mode in TRANSPARENT or "transparency" in picture.info:
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, background), picture)
        return picture.convert(mode)
    except (ValueError, OSError) as error:  # OSError: Pillow reads the pixels of an open file only now
        raise InputError(
            f"a picture of mode {picture.mode} cannot be converted ({error}): convert it to RGB first"
        ) from error


def _eight_bit(picture: Image.Image) -> Image.Image:
    """Grey of 16 bits or of floating-point numbers, such as a depth or edge map, in 8 bits.

    Floating-point pictures hold 0..1, 0..255 or 0..65535; the largest value tells which.
    """
    if picture.mode.startswith("I"):
        return _grey(np.asarray(picture).clip(0, 65535) / 257.0)
    if picture.mode == "F":
        values = np.nan_to_num(np.asarray(picture), nan=0.0, posinf=0.0, neginf=0.0)
        white = next((limit for limit in (1.0, 255.0) if values.max(initial=0.0) <= limit), 65535.0)
        return _grey(values.clip(0.0, white) * (255.0 / white))
    return picture


def _grey(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values.round().astype(np.uint8))
