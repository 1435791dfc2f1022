"""Pictures of every kind that Pillow reads, as 8-bit RGB or grey.

Pillow's own conversions cut 16-bit and floating-point pictures off at 255.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from ..errors import InputError

PREMULTIPLIED = {"RGBa": "RGBA", "La": "LA"}
TRANSPARENT = ("RGBA", "LA", "PA")


def rgb(picture: Image.Image) -> Image.Image:
    """Mode RGB. Transparency is left out, as by ComfyUI and diffusers: it is often a mask above a whole picture.

    Raises InputError.
    """
    return _converted(picture, lambda plain: plain.convert("RGBA").convert("RGB"))


def grey(picture: Image.Image) -> Image.Image:
    """Mode L, with transparent pixels as black. Raises InputError."""

    def on_black(plain: Image.Image) -> Image.Image:
        if plain.mode not in TRANSPARENT and "transparency" not in plain.info:
            return plain.convert("L")
        plain = plain.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", plain.size, "black"), plain).convert("L")

    return _converted(picture, on_black)


def _converted(picture: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    try:
        picture = _eight_bit(picture)
        return convert(picture.convert(PREMULTIPLIED.get(picture.mode, picture.mode)))
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
