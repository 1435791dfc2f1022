"""Overlapping tiles that are blended into one another, as other tools do it.

Every tile goes through the whole network, whose low-resolution stages then attend to one tile at a time: the result
differs from the untiled one, above all in tone from tile to tile. `tiling.py` has tiles without that error. These are
for comparison with other tools, and give what `enable_tiling` of diffusers' AutoencoderDC gives, whose defaults are
tiles of 512 that overlap by 64.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

from ..errors import InputError
from .networks import Decoder, Encoder
from .tiling import OnTile, check_tile, counter, result_like


@torch.no_grad()
def decode_blended(
    decoder: Decoder,
    latent: Tensor,
    *,
    tile: int,
    overlap: int,
    out: Tensor | None = None,
    on_tile: OnTile | None = None,
) -> Tensor:
    """Raw latent (B, 32, h, w) -> picture (B, 3, 32 h, 32 w), in tiles of `tile` pixels a side that share `overlap`
    pixels.

    overlap: a multiple of 32 smaller than `tile`. tile, out, on_tile, batches and gradients: as in
    `tiling.decode_tiled`. A picture no larger than a tile is decoded at once. Raises InputError.
    """
    geometry = decoder.geometry
    cell = check_tile(tile, geometry)
    starts = _starts((latent.shape[-2], latent.shape[-1]), tile, overlap, cell)
    out = result_like(latent, (latent.shape[0], 3, *geometry.in_pixels(latent.shape)), out)
    report = counter(on_tile, latent.shape[0] * len(starts[0]) * len(starts[1]))
    for item, picture in zip(latent.split(1), out.split(1)):
        _blend(decoder, (item, 1), (picture, cell), starts, tile // cell, overlap // cell, report)
    return out


@torch.no_grad()
def encode_blended(
    encoder: Encoder,
    image: Tensor,
    *,
    tile: int,
    overlap: int,
    out: Tensor | None = None,
    on_tile: OnTile | None = None,
) -> Tensor:
    """Picture (B, 3, H, W) in -1..1, H and W divisible by 32 -> raw latent (B, 32, H/32, W/32). Arguments: as in
    `decode_blended`.
    """
    geometry = encoder.geometry
    cell = check_tile(tile, geometry)
    cells = geometry.in_cells(image.shape)
    starts = _starts(cells, tile, overlap, cell)
    out = result_like(image, (image.shape[0], geometry.channels, *cells), out)
    report = counter(on_tile, image.shape[0] * len(starts[0]) * len(starts[1]))
    for item, latent in zip(image.split(1), out.split(1)):
        _blend(encoder, (item, cell), (latent, 1), starts, tile // cell, overlap // cell, report)
    return out


def _starts(cells: tuple[int, int], tile: int, overlap: int, cell: int) -> tuple[range, range]:
    """Where the tiles' rows and columns begin, in latent cells."""
    if overlap % cell or not 0 <= overlap < tile:
        raise InputError(
            f"overlap {overlap}, expected a multiple of {cell} pixels from 0 and smaller than the tile, which is {tile}"
        )
    if max(cells) * cell <= tile:
        return range(1), range(1)
    stride = (tile - overlap) // cell
    return range(0, cells[0], stride), range(0, cells[1], stride)


def _blend(
    network: Callable[[Tensor], Tensor],
    given: tuple[Tensor, int],
    made: tuple[Tensor, int],
    starts: tuple[range, range],
    tile: int,
    overlap: int,
    report: Callable[[], None],
) -> None:
    """`network` of one item into another, tile by tile. given, made: each with its positions per latent cell, the unit
    of all the rest.

    A tile is mixed with the one above, then with the one to the left, both as they became by their own mixing. What
    lies beyond its stride is left to the next tiles.
    """
    (x, take), (out, make) = given, made
    kept = (tile - overlap if len(starts[0]) * len(starts[1]) > 1 else tile) * make
    above: dict[int, Tensor] = {}
    left = out[..., :0]
    for top, start in product(*starts):
        y = network(x[:, :, top * take : (top + tile) * take, start * take : (start + tile) * take])
        if top:
            _mix(above[start], y, overlap * make, dim=2)
        if start:
            _mix(left, y, overlap * make, dim=3)
        above[start], left = y[:, :, kept:].clone(), y[..., kept:]
        part = y[:, :, :kept, :kept]
        out[:, :, top * make : top * make + part.shape[2], start * make : start * make + part.shape[3]] = part
        report()


def _mix(before: Tensor, y: Tensor, overlap: int, dim: int) -> None:
    """Fade from the end of `before` to the beginning of `y`, in place, along `dim`."""
    extent = min(before.shape[dim], y.shape[dim], overlap)
    if extent == 0:
        return
    ramp = torch.arange(extent, device=y.device, dtype=torch.promote_types(y.dtype, torch.float32)) / extent
    ramp = ramp.to(y.dtype).unsqueeze(-1) if dim == 2 else ramp.to(y.dtype)
    end = before.narrow(dim, before.shape[dim] - extent, extent)
    y.narrow(dim, 0, extent).mul_(ramp).add_(end * (1 - ramp))
