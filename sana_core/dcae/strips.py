"""Chains of DC-AE's layers on a part of the picture, in strips of rows, so that only the maps between the layers are
large.

A result on a box (rows and columns of a map) needs a larger box of the layer before, and so on back to the first:
`plan` finds these boxes from the layers' `reach`. `run` then computes the chain on them. Where a box ends inside the
picture, its outermost rows and columns are wrong (convolutions see zeros there), but no further than the next, smaller
box; where it ends at the border of the picture the zeros are the network's own padding. So the result is the untiled
one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .layers import ATTENTION_EPS, GLUMBConv, LiteMLA, ResBlock

STRIP_BYTES = (
    2**28
)  # held inside a layer: enough to keep a GPU busy, and to make the rows that strips compute twice a small part
MIN_ROWS = 4  # strips are no thinner than the farthest reach, two rows, even when evened out
IN_PLACE = (ResBlock, GLUMBConv, LiteMLA)  # what they compute is added to their input

Span = tuple[int, int]


class Box(NamedTuple):
    """[start, stop) of the rows and of the columns of a map."""

    rows: Span
    columns: Span

    @classmethod
    def of(cls, size: Sequence[int]) -> Box:
        """All of a map of `size` (height, width)."""
        height, width = size
        return cls((0, height), (0, width))

    @property
    def size(self) -> tuple[int, int]:
        return self.rows[1] - self.rows[0], self.columns[1] - self.columns[0]

    def divided(self, step: int) -> Box:
        """The same part of a map whose positions are `step` of these."""
        (top, bottom), (left, right) = self
        return Box((top // step, bottom // step), (left // step, right // step))


class Local(Protocol):
    """What chains are made of; `layers.py` says what the members mean."""

    @property
    def scale(self) -> float: ...
    @property
    def out_channels(self) -> int: ...
    def reach(self, start: int, stop: int, /) -> Span: ...
    def working_bytes(self, size: int, /) -> int: ...
    def __call__(self, x: Tensor, /) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class ChainLayer:
    """A few modules as one layer of a chain."""

    run: Callable[[Tensor], Tensor]
    reach: Callable[[int, int], Span]
    working_bytes: Callable[[int], int]
    out_channels: int
    scale: float = 1

    def __call__(self, x: Tensor) -> Tensor:
        return self.run(x)


def conv3x3_reach(start: int, stop: int) -> Span:
    return start - 1, stop + 1


def spans(length: int, largest: int) -> list[Span]:
    """[0, length) in as few parts as possible of at most `largest`, about equally long."""
    count = -(-length // largest)
    return [(index * length // count, (index + 1) * length // count) for index in range(count)]


def strips(layer: Local, size: tuple[int, int], number_bytes: int) -> list[Span]:
    """Rows of the layer's output of `size`, in strips for which it holds about `STRIP_BYTES`."""
    height, width = size
    return spans(height, max(MIN_ROWS, STRIP_BYTES // (width * layer.working_bytes(number_bytes))))


def plan(layers: Sequence[Local], want: Box, size: tuple[int, int]) -> list[Box]:
    """Boxes of the maps needed for the output box `want`: the input of each layer, then `want`. size: of the whole
    output.
    """
    boxes = [want]
    for layer in reversed(layers):
        size = int(size[0] / layer.scale), int(size[1] / layer.scale)
        want = Box(_clipped(layer.reach(*want.rows), size[0]), _clipped(layer.reach(*want.columns), size[1]))
        boxes.append(want)
    return boxes[::-1]


def run(layers: Sequence[Local], x: Tensor, boxes: Sequence[Box]) -> Tensor:
    """Output of the chain on the last of `boxes` (from `plan`); x (1, C, H, W) is its input on the first and may be
    overwritten.
    """
    have = boxes[0]
    for layer, need, want in zip(layers, boxes, boxes[1:]):
        need = Box(need.rows, columns_taken(layer, have, need))
        needed = crop(x, have, need)
        if isinstance(layer, (ResBlock, GLUMBConv)):
            _add(needed, layer.branch, layer)
        elif isinstance(layer, LiteMLA):
            _add(needed, _attention(layer, needed), layer)
        else:
            x, have = _resized(layer, needed, need, want), want
        del needed
    return crop(x, have, boxes[-1])


def columns_taken(layer: Local, have: Box, need: Box) -> Span:
    """Columns that a layer is given: all there are where it can take them, since whole rows lie in one piece.

    Attention must not see columns that are not right. A layer of stride 2 has to begin where a pair of columns does.
    """
    return need.columns if isinstance(layer, LiteMLA) or layer.scale < 1 else have.columns


def new_map(x: Tensor, channels: int, size: tuple[int, int]) -> Tensor:
    """An empty map (1, channels, height, width) like x, channels-last: convolutions take its rows uncopied."""
    return torch.empty((1, channels, *size), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def crop(x: Tensor, have: Box, want: Box) -> Tensor:
    """View of the box `want` of a map of which x holds the box `have`."""
    (top, _), (left, _) = have
    return x[:, :, want.rows[0] - top : want.rows[1] - top, want.columns[0] - left : want.columns[1] - left]


def _resized(layer: Local, x: Tensor, have: Box, want: Box) -> Tensor:
    """Box `want` of the output of a layer that changes size or channels, from the box `have` of its input."""
    out = new_map(x, layer.out_channels, want.size)
    for start, stop in strips(layer, want.size, x.element_size()):
        strip = Box((want.rows[0] + start, want.rows[0] + stop), want.columns)
        need = Box(_within(layer.reach(*strip.rows), have.rows), have.columns)
        made = Box(*((int(first * layer.scale), int(last * layer.scale)) for first, last in need))
        out[:, :, start:stop] = crop(layer(crop(x, have, need)), made, strip)
    return out


def _add(x: Tensor, branch: Callable[[Tensor], Tensor], layer: Local) -> None:
    """x += branch(x). A strip is written after the next one was computed, which needs its last rows unchanged."""
    written, pending = x[:, :, :0], x[:, :, :0]
    for (start, stop), (first, last) in _strips_with_halo(x, layer):
        y = branch(x[:, :, first:last])[:, :, start - first : stop - first]
        written.add_(pending)
        written, pending = x[:, :, start:stop], y
    written.add_(pending)


def _attention(layer: LiteMLA, x: Tensor) -> Callable[[Tensor], Tensor]:
    """The branch of `layer` for strips of x. The sums over all tokens are made here, strip by strip."""
    totals: list[Tensor] = []
    for (start, stop), (first, last) in _strips_with_halo(x, layer):
        sums = [
            part
            for scale in layer.scales(x[:, :, first:last])
            for part in layer.kernels.attention_state(*layer.heads(scale[..., start - first : stop - first, :])[1:])
        ]
        totals = [total + part for total, part in zip(totals, sums)] if totals else sums

    def branch(rows: Tensor) -> Tensor:
        sums = zip(totals[::2], totals[1::2])
        attended = [
            layer.kernels.attend(layer.heads(scale)[0], state, normalizer, eps=ATTENTION_EPS)
            for scale, (state, normalizer) in zip(layer.scales(rows), sums)
        ]
        return layer.merge(attended, rows)

    return branch


def _strips_with_halo(x: Tensor, layer: Local) -> Iterator[tuple[Span, Span]]:
    """Strips of the rows of x, each with the rows that it needs."""
    height, width = x.shape[-2:]
    for span in strips(layer, (height, width), x.element_size()):
        yield span, _clipped(layer.reach(*span), height)


def _clipped(span: Span, length: int) -> Span:
    return _within(span, (0, length))


def _within(span: Span, limits: Span) -> Span:
    return max(span[0], limits[0]), min(span[1], limits[1])
