"""The formats of quantised weights, as data: what is stored beside a weight, and in which shapes.

A quantised layer has a `weight` of packed numbers, side tensors such as scales, and a mark, which is JSON. Sources:
ComfyUI's QUANTIZATION.md, comfy/quant_ops.py and comfy/ops.py for names and marks; comfy-kitchen's `tensor/` for
shapes; ggml-common.h for the blocks of GGUF. `dequantise.py` computes the numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from .gguf_blocks import BLOCKS

Shape = tuple[int, ...]
Settings = Mapping[str, Any]

MARK = "comfy_quant"
SCALED_FP8 = "scaled_fp8"
GGUF = "gguf_"  # beginning of the names of GGUF's formats
GROUP = "convrot_groupsize"
BYTES = (torch.uint8, torch.int8)  # what holds packed numbers
FLOATS = (torch.float32, torch.bfloat16, torch.float16)
E4M3 = (torch.float8_e4m3fn, torch.uint8)  # some tools write the bytes of float8 as uint8
E8M0 = tuple(getattr(torch, name) for name in ("float8_e8m0fnu", "uint8") if hasattr(torch, name))  # PyTorch 2.7
ROTATED_BY = 256  # ConvRot's group where the mark states none


@dataclass(frozen=True)
class Side:
    """A side tensor. shapes: (shape of the weight, settings) -> the shapes that it may have.  shared: it belongs to all
    rows of the weight alike.
    """

    shapes: Callable[[Shape, Settings], tuple[Shape, ...]]
    stored: tuple[torch.dtype, ...] = FLOATS
    shared: bool = False


def _one(shape: Shape, settings: Settings) -> tuple[Shape, ...]:
    return (), (1,), (1, 1)


def _one_or_rows(shape: Shape, settings: Settings) -> tuple[Shape, ...]:
    return (*_one(shape, settings), (shape[0],), (shape[0], 1))


def _rows(shape: Shape, settings: Settings) -> tuple[Shape, ...]:
    return (shape[0],), (shape[0], 1)


def _columns(shape: Shape, settings: Settings) -> tuple[Shape, ...]:
    return ((shape[1],),)


@dataclass(frozen=True)
class _Blocks:
    """One scale for `size` numbers of a padded row, in cuBLAS's tiles of 128 x 4."""

    size: int
    padded: int

    def __call__(self, shape: Shape, settings: Settings) -> tuple[Shape, ...]:
        rows, columns = (rounded(length, self.padded) for length in shape)
        tiled = rounded(rows, 128), rounded(columns // self.size, 4)
        return tiled, (tiled[0] * tiled[1],)


def _groups(shape: Shape, settings: Settings) -> tuple[Shape, ...]:
    return ((shape[0], shape[1] // group_size(settings)),)


def _codebook(shape: Shape, settings: Settings) -> tuple[Shape, ...]:
    return ((16,),)


def rounded(number: int, multiple: int) -> int:
    """Rounded up."""
    return -(-number // multiple) * multiple


def group_size(settings: Settings) -> int:
    """Numbers of a row that share a scale in asym_w4a8_int8."""
    return whole(settings.get("group_size", 16))


def rotation(settings: Settings) -> int:
    """ConvRot's group: numbers of a row that are rotated together."""
    return whole(settings.get(GROUP, ROTATED_BY))


def whole(value: object) -> int:
    """A number above 0 from a file; 0 for anything else."""
    return value if type(value) is int and 0 < value < 1 << 20 else 0


@dataclass(frozen=True, kw_only=True)
class Format:
    """How a format stores the weight (N, K) of a layer.

    stored: number types of the tensor `weight`; empty: any.  required, optional: side tensors by name; optional None:
    any.  numbers, elements: so many numbers of a row are packed into so many stored elements.  padded: N and K are
    padded with zeros to multiples of it.  rows: True if some rows of the weight, with the same rows of its side
    tensors, make a weight of their own. Then fused layers can be cut, and an embedding can be read row by row.
    settings: what the mark of a layer says besides the name.
    """

    name: str
    stored: tuple[torch.dtype, ...] = ()
    required: Mapping[str, Side] = field(default_factory=dict)
    optional: Mapping[str, Side] | None = field(default_factory=dict)
    numbers: int = 1
    elements: int = 1
    padded: int = 1
    rows: bool = False
    settings: Settings = field(default_factory=dict)

    @property
    def known(self) -> bool:
        return self.name in FORMATS

    def logical_shape(self, stored: Shape) -> Shape:
        """What a stored weight stands for; padding counts, as nothing in the file tells how much of it there is."""
        return (*stored[:-1], stored[-1] // self.elements * self.numbers) if stored else stored

    def stored_shape(self, logical: Shape) -> Shape:
        """The shape in the file of a weight of this shape."""
        padded = tuple(rounded(size, self.padded) for size in logical)
        return (*padded[:-1], padded[-1] // self.numbers * self.elements) if padded else padded

    def accepts(self, side: str) -> bool:
        return self.optional is None or side == MARK or side in self.required or side in self.optional

    def side(self, name: str) -> Side | None:
        """What is known of a side tensor."""
        return self.required.get(name) or (self.optional or {}).get(name)

    def fault(self, logical: Shape) -> str | None:
        """Why no weight of this shape can be in this format, in words."""
        if not self.known:
            return None
        if len(logical) != 2:
            return f"has {len(logical)} dimensions, {self.name} is for matrices"
        if type(self.settings.get("convrot", False)) is not bool:
            return f"states convrot = {self.settings['convrot']!r:.40}, expected true or false"
        for what, size in self._groups():
            if size == 0 or rounded(logical[1], self.padded) % size:
                return f"has rows of {logical[1]} numbers, {self.name} {what} groups of {size or 'an unknown size'}"
        return None

    def _groups(self) -> Iterator[tuple[str, int]]:
        """What is done to groups of a row, and their size; 0 for one that no group can have."""
        yield "packs", self.numbers
        if self.name in ("convrot_w4a4", "asym_w4a8_int8") or self.settings.get("convrot"):
            size = rotation(self.settings)
            yield "rotates", size if size >= 4 and size.bit_count() == 1 and size.bit_length() % 2 else 0  # powers of 4
        if self.name == "asym_w4a8_int8":
            size = group_size(self.settings)
            yield "scales", size if size >= 4 and (16 % size == 0 or size % 16 == 0) else 0

    def with_settings(self, mark: Settings) -> Format:
        """This format with what the mark of a layer says."""
        params = mark.get("params")
        stated = {**(params if isinstance(params, Mapping) else {}), **mark}
        return replace(self, settings={key: stated[key] for key in stated if key not in ("format", "params")})


FORMATS: dict[str, Format] = {
    found.name: found
    for found in (
        Format(
            name="float8_e4m3fn",
            stored=E4M3,
            required={"weight_scale": Side(_one_or_rows)},
            optional={"input_scale": Side(_one, shared=True)},
            rows=True,
        ),
        Format(
            name="float8_e5m2",
            stored=(torch.float8_e5m2, torch.uint8),
            required={"weight_scale": Side(_one_or_rows)},
            optional={"input_scale": Side(_one, shared=True)},
            rows=True,
        ),
        Format(
            name="nvfp4",
            stored=BYTES,
            required={"weight_scale": Side(_Blocks(16, padded=16), E4M3), "weight_scale_2": Side(_one, shared=True)},
            optional={"input_scale": Side(_one, shared=True), "pre_quant_scale": Side(_columns, shared=True)},
            numbers=2,
            padded=16,
        ),
        Format(
            name="mxfp8",
            stored=E4M3,
            required={"weight_scale": Side(_Blocks(32, padded=32), E8M0)},
            optional={"input_scale": Side(_one, shared=True)},
            padded=32,
        ),
        Format(name="int8_tensorwise", stored=(torch.int8,), required={"weight_scale": Side(_one_or_rows)}, rows=True),
        Format(name="convrot_w4a4", stored=BYTES, required={"weight_scale": Side(_rows)}, numbers=2, rows=True),
        Format(
            name="asym_w4a8_int8",
            stored=BYTES,
            required={"weight_s_rel": Side(_groups, (*E4M3, torch.float32)), "weight_s_channel": Side(_rows)},
            optional={"weight_codebook": Side(_codebook, shared=True)},
            numbers=2,
            rows=True,
        ),
        Format(
            name=SCALED_FP8,
            stored=(torch.float8_e4m3fn, torch.float8_e5m2, torch.uint8),
            required={"scale_weight": Side(_one_or_rows)},
            optional={"scale_input": Side(_one, shared=True)},
            rows=True,
        ),
        *(
            Format(name=GGUF + kind, stored=(torch.uint8,), numbers=block.numbers, elements=block.size, rows=True)
            for kind, block in BLOCKS.items()
        ),
    )
}
SIDES = frozenset({MARK}.union(*({*found.required, *(found.optional or {})} for found in FORMATS.values())))


def format_named(name: str) -> Format:
    """The format of this name. One that is not in the table has no rules but that there is a weight."""
    return FORMATS.get(name, Format(name=name, optional=None))
