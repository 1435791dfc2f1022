"""Memory of a run: what to do when it runs out, and how much was used."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import TypeVar

import torch

from ..dcae.memory import TILES
from ..shortage import out_of_memory

log = logging.getLogger("sana")
Result = TypeVar("Result")


def with_smaller_tiles(work: Callable[[int | None], Result], tile: int | None) -> Result:
    """work(tile), and again with the next smaller tile each time that memory runs out, down to the smallest."""
    smaller = [side for side in TILES if side is not None and (tile is None or side < tile)]
    for following in smaller:
        try:
            return work(tile)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            size = f"tiles of {tile} pixels" if tile else "the whole picture at once"
            log.warning("out of memory with %s: trying tiles of %d pixels", size, following)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        tile = following
    return work(tile)


def peak_memory(device: torch.device) -> str:
    """The most memory this process has held, in words: tensors on a GPU, or all that was resident on the CPU."""
    if device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated(device) / 1e9:.2f} GB of tensors on {device}"
    if sys.platform == "win32":
        return "not known on Windows without a GPU"
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB on Linux
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return f"{used / 1e9:.2f} GB of the whole process, resident in the CPU's memory"
