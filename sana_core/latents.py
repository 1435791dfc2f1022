"""Latents of DC-AE f32: their geometry, the noise sampling starts from, and the picture sizes SANA was trained on.

`geometry.py` says how large a cell is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .errors import InputError
from .geometry import DC_AE_F32, LatentGeometry


def latent_size(width: int, height: int, geometry: LatentGeometry = DC_AE_F32) -> tuple[int, int]:
    """Picture size in pixels -> (h, w) of its latent. Raises InputError for sizes that are not whole cells."""
    cell = geometry.downscale
    wrong = [name for name, pixels in (("width", width), ("height", height)) if pixels < 1 or pixels % cell]
    if wrong:
        valid = f"{nearest_sizes(width, geometry)} wide and {nearest_sizes(height, geometry)} high"
        raise InputError(
            f"{' and '.join(wrong)} of {width} x {height} must be a positive multiple of {cell}; nearest sizes in "
            f"pixels: {valid}"
        )
    return height // cell, width // cell


def nearest_sizes(pixels: int, geometry: LatentGeometry = DC_AE_F32) -> str:
    """The multiples of a cell next to a number of pixels, in words: 1024 for 1024, "992 or 1024" for 1000, 32 for 5."""
    cell = geometry.downscale
    lower, upper = (max(multiple, 1) * cell for multiple in (pixels // cell, -(-pixels // cell)))
    return f"{lower}" if lower == upper else f"{lower} or {upper}"


def noise(shape: Sequence[int], seed: int) -> Tensor:
    """Standard normal latents, float32 on the CPU, the same on every machine.

    One generator draws the whole batch, as ComfyUI does: the same seed gives the same noise in both. Raises InputError
    for a seed outside -2**63..2**64 - 1.
    """
    return next(noises(shape, seed))


def noises(shape: Sequence[int], seed: int) -> Iterator[Tensor]:
    """All noise of a run from one generator: what it starts from, which is `noise`, then what its steps add, without
    end.
    """
    if not -(2**63) <= seed < 2**64:
        raise InputError(f"the seed {seed} is out of range: a seed is a whole number of at most 64 bits")
    generator = torch.Generator(device="cpu").manual_seed(seed)
    while True:
        yield torch.randn(tuple(shape), generator=generator, dtype=torch.float32, device="cpu")


def closest_bin(height: int, width: int, native: int) -> tuple[int, int]:
    """(height, width) of the trained size with the aspect ratio nearest to height / width.

    native: 512, 1024, 2048 or 4096, the class of the model. Raises InputError for another class or a size that is not
    positive.
    """
    if native not in RESOLUTION_BINS:
        raise InputError(
            f"no trained sizes for a {native} px model, expected one of {', '.join(map(str, RESOLUTION_BINS))}"
        )
    if height < 1 or width < 1:
        raise InputError(f"a picture needs a positive size, got {width} x {height}")
    bins = RESOLUTION_BINS[native]
    return bins[min(bins, key=lambda ratio: abs(ratio - height / width))]


def ratio_size(ratio: str, native: int) -> tuple[int, int]:
    """(width, height) in pixels of the size nearest to an aspect ratio in ASPECT_RATIOS.

    native: side of the model's own square. A trained size for the classes in RESOLUTION_BINS, else one of the same
    area on the grid of the latents.
    """
    wide, high = ASPECT_RATIOS[ratio]
    if native in RESOLUTION_BINS:
        height, width = closest_bin(high, wide, native)
        return width, height
    cell, stretch = DC_AE_F32.downscale, (wide / high) ** 0.5
    width, height = (max(1, round(native * factor / cell)) * cell for factor in (stretch, 1 / stretch))
    return width, height


def _scaled(bins: dict[float, tuple[int, int]], numerator: int, denominator: int = 1) -> dict[float, tuple[int, int]]:
    return {
        ratio: (height * numerator // denominator, width * numerator // denominator)
        for ratio, (height, width) in bins.items()
    }


ASPECT_RATIOS = {
    f"{wide}:{high}": (wide, high)
    for wide, high in (
        (1, 1), (5, 4), (4, 3), (3, 2), (16, 9), (2, 1), (21, 9), (3, 1), (4, 1),
        (4, 5), (3, 4), (2, 3), (9, 16), (1, 2), (9, 21), (1, 3), (1, 4),
    )
}  # fmt: skip
"""Aspect ratios that pictures are asked for in: "wide:high" -> (wide, high)."""

_BINS_1024 = {  # height / width as the training data rounded it -> (height, width)
    0.25: (512, 2048), 0.28: (512, 1856), 0.32: (576, 1792), 0.33: (576, 1728), 0.35: (576, 1664), 0.4: (640, 1600),
    0.42: (640, 1536), 0.48: (704, 1472), 0.5: (704, 1408), 0.52: (704, 1344), 0.57: (768, 1344), 0.6: (768, 1280),
    0.68: (832, 1216), 0.72: (832, 1152), 0.78: (896, 1152), 0.82: (896, 1088), 0.88: (960, 1088), 0.94: (960, 1024),
    1.0: (1024, 1024), 1.07: (1024, 960), 1.13: (1088, 960), 1.21: (1088, 896), 1.29: (1152, 896), 1.38: (1152, 832),
    1.46: (1216, 832), 1.67: (1280, 768), 1.75: (1344, 768), 2.0: (1408, 704), 2.09: (1472, 704), 2.4: (1536, 640),
    2.5: (1600, 640), 3.0: (1728, 576), 4.0: (2048, 512),
}  # fmt: skip

_EXTREME_2048 = {
    0.26: (1024, 3968), 0.27: (1024, 3840), 2.89: (3328, 1152), 3.11: (3584, 1152), 3.62: (3712, 1024),
    3.75: (3840, 1024), 3.88: (3968, 1024),
}  # fmt: skip

_BINS_2048 = dict(sorted({**_scaled(_BINS_1024, 2), **_EXTREME_2048}.items()))

RESOLUTION_BINS: dict[int, dict[float, tuple[int, int]]] = {
    512: _scaled(_BINS_1024, 1, 2),
    1024: _BINS_1024,
    2048: _BINS_2048,
    4096: _scaled(_BINS_2048, 2),
}
"""Trained sizes by model class: aspect ratio height / width -> (height, width) in pixels (PixArt's multi-scale
buckets).
"""
