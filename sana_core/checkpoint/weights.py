"""Weights as a network means them, whatever format their bytes are in.

A quantised layer has a `weight` of packed numbers and side tensors such as scales beside it. A table says for each
format which side tensors a layer needs and may have, and what shape a weight takes in it. Detection, the check of a
whole state dict and LoRA ask here instead of looking at the packed tensors.

Three ways to mark a quantised layer are known: a tensor `LAYER.comfy_quant` with JSON in UTF-8, the same JSON in the
safetensors metadata `_quantization_metadata`, and the older tensor `scaled_fp8` for the whole file. Source: ComfyUI's
QUANTIZATION.md, comfy/quant_ops.py and comfy/ops.py; the shapes are those of comfy-kitchen's layouts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..quantised.gguf_blocks import BLOCKS
from .read_json import read_object

MARK = "comfy_quant"
METADATA_KEY = "_quantization_metadata"
SCALED_FP8 = "scaled_fp8"
GGUF = "gguf_"  # what stands before the name of a block type in the name of a format
FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2, torch.uint8)  # some tools write the bytes of float8 as uint8
BYTES = (torch.uint8, torch.int8)  # what holds packed numbers


@dataclass(frozen=True, kw_only=True)
class Format:
    """How a format stores the weight (N, K) of a layer.

    stored: number types of the tensor `weight`; empty: any.  required, optional: names of side tensors; optional None:
    any.  packed: numbers in one stored element, along K.  padded: N and K are padded with zeros to multiples of it.
    block: numbers and bytes of a block, for formats that store rows of such blocks.
    rows: True if some rows of the weight, with the same rows of its side tensors, make a weight of their own. Then
    fused layers can be cut.
    """

    name: str
    stored: tuple[torch.dtype, ...] = ()
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] | None = ()
    packed: int = 1
    padded: int = 1
    block: tuple[int, int] = (1, 1)
    rows: bool = False

    def logical_shape(self, stored: tuple[int, ...]) -> tuple[int, ...]:
        """What a stored weight stands for; padding counts, as nothing in the file tells how much of it there is."""
        numbers, size = self.block
        return (*stored[:-1], stored[-1] * self.packed // size * numbers) if stored else stored

    def stored_shape(self, logical: tuple[int, ...]) -> tuple[int, ...]:
        """The shape in the file of a weight of this shape."""
        padded = tuple(-(-size // self.padded) * self.padded for size in logical)
        numbers, size = self.block
        return (*padded[:-1], padded[-1] // self.packed // numbers * size) if padded else padded

    def accepts(self, side: str) -> bool:
        return self.optional is None or side in (MARK, *self.required, *self.optional)


FORMATS: dict[str, Format] = {
    found.name: found
    for found in (
        Format(name="float8_e4m3fn", stored=FLOAT8, required=("weight_scale",), optional=("input_scale",), rows=True),
        Format(name="float8_e5m2", stored=FLOAT8, required=("weight_scale",), optional=("input_scale",), rows=True),
        Format(
            name="nvfp4",
            stored=BYTES,
            required=("weight_scale", "weight_scale_2"),
            optional=("input_scale", "pre_quant_scale"),
            packed=2,
            padded=16,
        ),
        Format(name="mxfp8", stored=FLOAT8, required=("weight_scale",), optional=("input_scale",), padded=32),
        Format(name="int8_tensorwise", stored=(torch.int8,), required=("weight_scale",), rows=True),
        Format(name="convrot_w4a4", stored=BYTES, required=("weight_scale",), packed=2),
        Format(
            name="asym_w4a8_int8",
            stored=BYTES,
            required=("weight_s_rel", "weight_s_channel"),
            optional=("weight_codebook",),
            packed=2,
        ),
        Format(name=SCALED_FP8, stored=FLOAT8, required=("scale_weight",), optional=("scale_input",), rows=True),
        *(
            Format(name=GGUF + type, stored=(torch.uint8,), block=(block.numbers, block.size), rows=True)
            for type, block in BLOCKS.items()
        ),
    )
}
SIDES = frozenset({MARK}.union(*({*found.required, *(found.optional or ())} for found in FORMATS.values())))


def quantised_layers(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> dict[str, Format]:
    """The format of every quantised layer of a state dict, by the layer's name in it; empty where none is quantised.

    metadata: of the safetensors file. A format that is not in the table, and one whose mark is on the meta device, has
    no rules but that there is a weight. Raises CheckpointError for a mark that cannot be read.
    """
    stated: dict[str, object] = {}
    if METADATA_KEY in (metadata or {}):
        layers = read_object((metadata or {})[METADATA_KEY], f"the metadata {METADATA_KEY}").get("layers")
        if not isinstance(layers, dict):
            raise CheckpointError(f"the metadata {METADATA_KEY} names no layers: download the file again")
        stated.update(layers)
    for key, tensor in tensors.items():
        layer, _, side = key.rpartition(".")
        if side == MARK:
            stated[layer] = None if tensor.is_meta else read_object(tensor.cpu().numpy().tobytes(), key)
        elif side == "scale_weight":
            stated.setdefault(layer, {"format": SCALED_FP8})
    return {layer: _format(layer, mark) for layer, mark in stated.items()}


def _format(layer: str, mark: object) -> Format:
    name = "an unknown format" if mark is None else mark.get("format") if isinstance(mark, dict) else None
    if not isinstance(name, str):
        raise CheckpointError(f"{layer} is marked as quantised without the name of a format: download the file again")
    return FORMATS.get(name, Format(name=name, optional=None))


def logical_shapes(tensors: Mapping[str, Tensor], layers: Mapping[str, Format]) -> dict[str, tuple[int, ...]]:
    """The shapes that the weights stand for, without side tensors."""
    shapes = {}
    for key, tensor in tensors.items():
        layer, _, name = key.rpartition(".")
        form, shape = layers.get(layer), tuple(tensor.shape)
        if form and name == "weight":
            shapes[key] = form.logical_shape(shape)
        elif not (form and form.accepts(name)) or name == "bias":
            shapes[key] = shape
    return shapes


@dataclass(frozen=True)
class Misfits:
    """What does not fit when a state dict is laid beside the one that a network expects."""

    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    misshaped: dict[str, str] = field(default_factory=dict)  # key -> what is wrong, such as "(2, 3) instead of (2, 4)"

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.misshaped)


def misfits(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], layers: Mapping[str, Format] | None = None
) -> Misfits:
    """Compare a state dict with the one of a network, name by name and shape by shape.

    expected: the network's state dict, such as on the meta device: names and logical shapes.  layers: what is quantised
    in `tensors`, see `quantised_layers`; None: found here. A quantised layer needs its weight and the required side
    tensors of its format, and has no others. A layer that the network does not have is unexpected in all its keys.
    """
    layers = quantised_layers(tensors) if layers is None else layers
    found = Misfits()
    wanted = dict.fromkeys(expected)
    for layer, form in layers.items():
        if f"{layer}.weight" in expected:
            wanted.update(dict.fromkeys(f"{layer}.{side}" for side in form.required))
    found.missing.extend(key for key in wanted if key not in tensors)
    for key, tensor in tensors.items():
        layer, _, name = key.rpartition(".")
        form = layers.get(layer)
        if key in expected:
            wrong = _wrong(tensor, tuple(expected[key].shape), form if name == "weight" else None)
            if wrong:
                found.misshaped[key] = wrong
        elif not (form and f"{layer}.weight" in expected and form.accepts(name)):
            found.unexpected.append(key)
    return found


def _wrong(tensor: Tensor, logical: tuple[int, ...], form: Format | None) -> str | None:
    """What is wrong with a tensor that stands for one of this shape, in words."""
    shape, name = tuple(tensor.shape), f" ({form.name})" if form else ""
    if form is None or form.stored:
        stored = form.stored_shape(logical) if form else logical
        if shape != stored:
            return f"{shape} instead of {stored}{name}"
    if form and form.stored and tensor.dtype not in form.stored:
        return f"of {_words(tensor.dtype)} instead of {' or '.join(map(_words, form.stored))}{name}"
    return None


def _words(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
