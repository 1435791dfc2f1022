"""Is a picture a picture? Black, white and flat ones are signs of overflow or of the wrong files."""

from __future__ import annotations

import numpy as np
from PIL import Image
from torch import Tensor

BLACK, WHITE = 8, 247  # of 255: the brightest pixel of a black picture, the darkest of a white one
FLAT = 4.0  # standard deviation in 255ths


def fault(picture: Image.Image, latents: Tensor) -> str | None:
    """What is wrong with a picture, None if nothing is."""
    if not latents.isfinite().all():
        return "its latents are not finite (NaN or infinite): numbers left the range of their type"
    pixels = np.asarray(picture.convert("RGB"), dtype=np.float32)
    if pixels.max() <= BLACK:
        return "it is black"
    if pixels.min() >= WHITE:
        return "it is white"
    if pixels.std(axis=(0, 1)).max() < FLAT:
        return "it is flat: all of it has about one colour"
    return None
