"""What is allowed but seldom meant: pictures of a size that the model was not trained on, an empty prompt."""

from __future__ import annotations

from ..config import SamplingDefaults
from ..latents import RESOLUTION_BINS, closest_bin
from .request import Resolved

AREA, SHAPE = 2.0, 1.3  # how many times the pixels, and the ratio of the sides, of the nearest trained size


def hints(run: Resolved, defaults: SamplingDefaults) -> list[str]:
    """A line for each."""
    found = []
    if "" in run.prompt:
        found.append("the prompt is empty: the model draws what it likes")
    width, height = trained_size(run.width, run.height, defaults)
    area = run.width * run.height / (width * height)
    shape = run.width / run.height * height / width
    if max(area, 1 / area) > AREA or max(shape, 1 / shape) > SHAPE:
        found.append(
            f"{run.width}x{run.height} is far from the sizes this model was trained on, so the picture may be "
            f"distorted: try --size {width}x{height}"
        )
    return found


def trained_size(width: int, height: int, defaults: SamplingDefaults) -> tuple[int, int]:
    """The nearest (width, height) that the model was trained on."""
    if defaults.width != defaults.height or defaults.width not in RESOLUTION_BINS:
        return defaults.width, defaults.height
    rows, columns = closest_bin(height, width, defaults.width)
    return columns, rows
