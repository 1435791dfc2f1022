"""Exact tiles for DC-AE: the same picture or latent as without tiles, in a fraction of the memory.

The stages at 1/8, 1/16 and 1/32 of the size attend to the whole picture, but their maps are small: they run on the
whole picture, in strips of rows (`strips.py`). The three stages above hold the large maps and see only a neighbourhood:
they run in tiles, each with as much of the map at 1/8 around it as the layers reach. Nothing is blended and there are
no seams.

`blending.py` has the overlapping, blended tiles of other tools, `memory.py` the choice of a tile by the free memory.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import torch
from torch import Tensor

from ..errors import InputError
from ..geometry import LatentGeometry
from .networks import Decoder, Encoder
from .strips import Box, crop, new_map, plan, run, spans

MIN_TILE = 128  # pixels; below, most of the work would be halo

OnTile = Callable[[int, int], None]  # on_tile(done, total)


@torch.no_grad()
def decode_tiled(
    decoder: Decoder, latent: Tensor, *, tile: int | None, out: Tensor | None = None, on_tile: OnTile | None = None
) -> Tensor:
    """Raw latent (B, 32, h, w), divided by the scaling factor already -> picture (B, 3, 32 h, 32 w): `decoder(latent)`
    to rounding.

    tile: largest side of a tile in pixels, a multiple of 32 from 128; tiles are made about equally large. None: no
    tiles, all at once. out: preallocated result, on any device and of any number type, so that a host can have the
    picture on the CPU. None: like `latent`. on_tile: called as on_tile(done, total) after each tile, counted over the
    batch. What it raises, such as an interrupt, passes through. Items of a batch run one after another: but for `out`,
    memory does not grow with the batch. No gradients.  Raises InputError.
    """
    size = decoder.geometry.in_pixels(latent.shape)
    boxes = tile_boxes(size, tile, decoder.geometry)
    out = result_like(latent, (latent.shape[0], 3, *size), out)
    report = counter(on_tile, latent.shape[0] * len(boxes))
    for item, picture in zip(latent.split(1), out.split(1)):
        if tile is None:
            picture.copy_(decoder(item))
            report()
        else:
            _decode(decoder, item, picture, boxes, report)
    return out


@torch.no_grad()
def encode_tiled(
    encoder: Encoder, image: Tensor, *, tile: int | None, out: Tensor | None = None, on_tile: OnTile | None = None
) -> Tensor:
    """Picture (B, 3, H, W) in -1..1, H and W divisible by 32 -> raw latent (B, 32, H/32, W/32): `encoder(image)` to
    rounding.

    tile, out, on_tile, batches, gradients and errors: as in `decode_tiled`.
    """
    geometry = encoder.geometry
    boxes = tile_boxes((image.shape[-2], image.shape[-1]), tile, geometry)
    out = result_like(image, (image.shape[0], geometry.channels, *geometry.in_cells(image.shape)), out)
    report = counter(on_tile, image.shape[0] * len(boxes))
    for item, latent in zip(image.split(1), out.split(1)):
        if tile is None:
            latent.copy_(encoder(item))
            report()
        else:
            latent.copy_(_encode(encoder, item, boxes, report))
    return out


def tile_boxes(size: tuple[int, int], tile: int | None, geometry: LatentGeometry) -> list[Box]:
    """The tiles of a picture of `size` (height, width), row by row. Raises InputError for a tile that cannot be."""
    if tile is None:
        return [Box.of(size)]
    cell = check_tile(tile, geometry)
    rows, columns = (
        [(first * cell, last * cell) for first, last in spans(length // cell, tile // cell)] for length in size
    )
    return [Box(top, left) for top in rows for left in columns]


def _decode(decoder: Decoder, latent: Tensor, picture: Tensor, boxes: list[Box], report: Callable[[], None]) -> None:
    """One latent (1, 32, h, w) into `picture` (1, 3, 32 h, 32 w)."""
    low, high = decoder.chains()
    whole = Box.of(picture.shape[-2:])
    seen = plan(high, whole, whole.size)[0]
    x = run(low, decoder.stem(latent), plan(low, seen, seen.size))
    for box in boxes:
        needs = plan(high, box, whole.size)
        crop(picture, whole, box).copy_(run(high, crop(x, seen, needs[0]), needs))
        report()


def _encode(encoder: Encoder, image: Tensor, boxes: list[Box], report: Callable[[], None]) -> Tensor:
    """One picture (1, 3, H, W) to its latent (1, 32, H/32, W/32)."""
    high, low = encoder.chains()
    height, width = image.shape[-2:]
    cells = encoder.geometry.in_cells(image.shape)
    needs = plan(low, Box.of(cells), cells)
    seen = needs[0]
    step = height // seen.size[0]  # pixels per position of the map that the low stages see

    def seen_map() -> Tensor:
        x = new_map(image, encoder.map_channels, seen.size)
        for box in boxes:
            part = box.divided(step)
            tile_needs = plan(high, part, seen.size)
            crop(x, seen, part).copy_(run(high, crop(image, Box.of((height, width)), tile_needs[0]), tile_needs))
            report()
        return x

    return encoder.head(run(low, seen_map(), needs))


def check_tile(tile: int, geometry: LatentGeometry) -> int:
    """The side of a cell in pixels. Raises InputError for a tile that is not made of cells, or too small."""
    cell = geometry.downscale
    if not isinstance(tile, int) or tile < MIN_TILE or tile % cell:
        raise InputError(f"tile size {tile!r}, expected a multiple of {cell} pixels from {MIN_TILE}")
    return cell


def result_like(given: Tensor, shape: tuple[int, ...], out: Tensor | None) -> Tensor:
    """`out` if it has this shape, or a new tensor like `given`. Raises InputError."""
    if out is None:
        return given.new_empty(shape)
    if out.shape != shape:
        raise InputError(
            f"the result is {shape}, but the tensor to write it to is {tuple(out.shape)}: allocate it with that shape"
        )
    return out


def counter(on_tile: OnTile | None, total: int) -> Callable[[], None]:
    """A function to call after each tile."""
    done = count(1)

    def report() -> None:
        if on_tile is not None:
            on_tile(next(done), total)

    return report
