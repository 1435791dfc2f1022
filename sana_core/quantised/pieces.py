"""A quantised weight piece by piece: some of its rows with their part of the side tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from .dequantise import dequantise
from .formats import Format, Shape, rounded

NUMBERS = 1 << 20  # of a piece, about: what is computed on the way stays small beside a layer
TILE = 128  # block scales lie in tiles of so many rows


def dequantised_pieces(
    form: Format, parts: Mapping[str, Tensor], shape: Shape, numbers: int | None = None
) -> Iterator[tuple[int, Tensor]]:
    """The weight (N, K) from top to bottom, as the first row of each piece and the piece in float32.

    numbers: of a piece, rounded down to whole tiles of rows, but one tile at the least; None: NUMBERS.
    """
    rows = max((numbers or NUMBERS) // shape[1] // TILE, 1) * TILE
    for start in range(0, shape[0], rows):
        count = min(rows, shape[0] - start)
        own = {name: _cut(form, name, part, shape[0], start, count) for name, part in parts.items()}
        yield start, dequantise(form.name, own, form.settings, (count, shape[1]))


def _cut(form: Format, name: str, part: Tensor, total: int, start: int, count: int) -> Tensor:
    """What belongs to rows start ... start + count of a part of a weight that has `total` rows."""
    side = form.side(name)
    if count == total or part.numel() == 1 or (side is not None and side.shared):
        return part
    if side is None or form.padded == 1:
        return part[start : _end(start + count, total, len(part))]
    tiled = part.reshape(rounded(total, TILE), -1)  # scales of blocks, which may lie flat
    return tiled[start : _end(start + count, total, len(tiled))]


def _end(end: int, total: int, stored: int) -> int:
    """The last piece keeps the padding."""
    return stored if end == total else end
