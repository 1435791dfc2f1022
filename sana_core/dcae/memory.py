"""How much memory DC-AE needs with tiles and without, and the largest tile that fits."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch

from ..config import AutoencoderConfig
from ..device import free_memory
from ..kit import Kit
from .networks import Decoder, Encoder, tiled_stages
from .strips import IN_PLACE, Box, Local, columns_taken, plan, strips
from .tiling import tile_boxes

TILES = (None, 2048, 1024, 768, 512, 384, 256, 128)
UNKNOWN_MEMORY_TILE = 1024
PeakBytes = Callable[..., int]
"""(config, height, width, tile, dtype, batch=1) -> bytes"""
log = logging.getLogger("sana")
MARGIN = 1.2  # for what the counts leave out


def pick_tile(
    config: AutoencoderConfig,
    height: int,
    width: int,
    dtype: torch.dtype,
    free_bytes: int,
    *,
    batch: int = 1,
    peak_bytes: PeakBytes | None = None,
    largest: int | None = None,
) -> int | None:
    """Largest of `TILES` (None: no tiles) whose peak, with a margin of a fifth, fits into `free_bytes`.

    Sizes in pixels. The weights are taken to be loaded already. peak_bytes: `decode_peak_bytes`, the default, or
    `encode_peak_bytes`. largest: no larger tile than this. If not even the smallest tile fits it is returned all the
    same, with a warning: this is an estimate, and only the allocator knows what it can give.
    """
    peak_bytes, needed = peak_bytes or decode_peak_bytes, 0.0
    sizes = [tile for tile in TILES if largest is None or (tile or max(height, width)) <= largest]
    for tile in sizes:
        needed = MARGIN * peak_bytes(config, height, width, tile, dtype, batch)
        if needed <= free_bytes:
            return tile
    log.warning(
        "a picture of %d x %d pixels in its smallest tiles takes about %.2f GB of memory besides the autoencoder, and "
        "%.2f GB are free: if this fails, free some memory or choose a smaller picture",
        width,
        height,
        needed / 1e9,
        free_bytes / 1e9,
    )
    return sizes[-1]


def auto_tile(
    config: AutoencoderConfig, height: int, width: int, like: torch.Tensor, *, encode: bool = False
) -> int | None:
    """`pick_tile` for the device, number type and batch of `like`; 1024 if free memory is unknown."""
    free = free_memory(like.device)
    if free is None:
        return UNKNOWN_MEMORY_TILE
    peak_bytes = encode_peak_bytes if encode else decode_peak_bytes
    return pick_tile(config, height, width, like.dtype, free, batch=like.shape[0], peak_bytes=peak_bytes)


def decode_peak_bytes(
    config: AutoencoderConfig, height: int, width: int, tile: int | None, dtype: torch.dtype, batch: int = 1
) -> int:
    """Peak bytes of live tensors in `decode_tiled` to a picture of height x width pixels: with the result, without the
    weights.

    It is the result and the largest, over all layers, of: the map held for later tiles, the layer's input and output,
    and its `working_bytes` for a strip (without tiles: for the whole map). For the full model in numbers of s bytes
    that is, per pixel,

    - without tiles 1280 bytes in bfloat16 and 1536 in float32 (a residual block at full size), and 3 s of the result;
    - with tiles of T pixels 8 s of the map at 1/8 and 3 s of the result, and for a tile about 128 s (T + 14)**2 of
      its map at full size,
      64 s (T + 20)**2 of the one before and `strips.STRIP_BYTES`.

    batch multiplies the result alone. Workspaces of convolutions and the allocator's rounding are not counted.
    """
    low, high = _skeleton(Decoder, config).chains()
    size, cells = dtype.itemsize, config.geometry.in_cells((height, width))
    result = batch * 3 * height * width * size
    stem = config.decoder[-1].channels * _area(cells) * size
    whole = Box.of((height, width))
    if tile is None:
        return result + _untiled_peak([*low, *high], whole, stem, size)
    seen = plan(high, whole, whole.size)[0]
    low_peak, held = _chain_peak(low, plan(low, seen, seen.size), stem, size)
    tiles = (plan(high, box, whole.size) for box in tile_boxes(whole.size, tile, config.geometry))
    return result + max(low_peak, held + max(_chain_peak(high, boxes, 0, size)[0] for boxes in tiles))


def encode_peak_bytes(
    config: AutoencoderConfig, height: int, width: int, tile: int | None, dtype: torch.dtype, batch: int = 1
) -> int:
    """Peak bytes of live tensors in `encode_tiled` of a picture of height x width pixels: without the picture and the
    weights.

    As in `decode_peak_bytes`: per pixel 1280 bytes in bfloat16 and 1536 in float32 without tiles; with them 8 s of the
    map at 1/8, and for a tile about 128 s (T + 66)**2 of its map at full size, 64 s (T + 62)**2 of the next one and
    `strips.STRIP_BYTES`.
    """
    high, low = _skeleton(Encoder, config).chains()
    size, cells = dtype.itemsize, config.geometry.in_cells((height, width))
    result = batch * config.geometry.channels * _area(cells) * size
    if tile is None:
        return result + _untiled_peak([*high, *low], Box.of(cells), 0, size)
    needs = plan(low, Box.of(cells), cells)
    seen = needs[0].size
    held = config.encoder[tiled_stages(config.encoder)].channels * _area(seen) * size
    tiles = (
        plan(high, box.divided(height // seen[0]), seen) for box in tile_boxes((height, width), tile, config.geometry)
    )
    return result + max(
        held + max(_chain_peak(high, boxes, 0, size)[0] for boxes in tiles), _chain_peak(low, needs, held, size)[0]
    )


@lru_cache(maxsize=8)
def _skeleton(network: type[Any], config: AutoencoderConfig) -> Any:
    """The network without weights."""
    return network(config, Kit(device="meta"))


def _chain_peak(layers: Sequence[Local], boxes: Sequence[Box], owned: int, size: int) -> tuple[int, int]:
    """Peak bytes of `strips.run`, and the bytes of its result. owned: bytes of its input, 0 if others hold it; size:
    bytes of a number.
    """
    peak, have = owned, boxes[0]
    for layer, need, want in zip(layers, boxes, boxes[1:]):
        left, right = columns_taken(layer, have, need)
        if isinstance(layer, IN_PLACE):
            peak = max(peak, owned + _strip_bytes(layer, (need.size[0], right - left), size))
            continue
        made = _area(want.size) * layer.out_channels * size
        computed = (want.size[0], int((right - left) * layer.scale))
        peak = max(peak, owned + made + _strip_bytes(layer, computed, size))
        owned, have = made, want
    return peak, owned


def _strip_bytes(layer: Local, extent: tuple[int, int], size: int) -> int:
    """What `layer` holds for a strip in the middle of its output of `extent`; for a residual, with the result of the
    strip before.
    """
    parts = strips(layer, extent, size)
    start, stop = parts[len(parts) // 2]
    first, last = layer.reach(start, stop)
    rows = min(extent[0], int((last - first) * layer.scale))
    pending = layer.out_channels * size if isinstance(layer, IN_PLACE) and len(parts) > 1 else 0
    return rows * extent[1] * (layer.working_bytes(size) + pending)


def _untiled_peak(layers: Sequence[Local], want: Box, owned: int, size: int) -> int:
    """Peak bytes of the layers on whole maps."""
    peak = owned
    for layer, box in zip(layers, plan(layers, want, want.size)[1:]):
        peak = max(peak, owned + _area(box.size) * layer.working_bytes(size))
        owned = _area(box.size) * layer.out_channels * size
    return peak


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]
