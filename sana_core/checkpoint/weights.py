"""Weights as a network means them, whatever format their bytes are in.

`quantised/formats.py` says for each format which side tensors a layer needs and may have, and what shapes they take.
Detection, the check of a whole state dict and LoRA ask here instead of looking at the packed tensors.

Three ways to mark a quantised layer are known: a tensor `LAYER.comfy_quant` with JSON in UTF-8, the same JSON in the
safetensors metadata `_quantization_metadata`, and the older tensor `scaled_fp8` for the whole file. Source: ComfyUI's
QUANTIZATION.md and comfy/utils.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..precision import dtype_name
from ..quantised.formats import MARK, SCALED_FP8, Format, format_named
from .read_json import json_tensor, read_object, tensor_bytes

METADATA_KEY = "_quantization_metadata"
FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)


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
    older = any(key.rpartition(".")[2] == SCALED_FP8 for key in tensors)  # then every weight in 8 bits has a scale
    for key, tensor in tensors.items():
        layer, _, side = key.rpartition(".")
        if side == MARK:
            stated[layer] = None if tensor.is_meta else read_object(tensor_bytes(tensor), key)
        elif side == "scale_weight" or (side == "weight" and older and tensor.dtype in FLOAT8):
            stated.setdefault(layer, {"format": SCALED_FP8})
    return {layer: _format(layer, mark) for layer, mark in stated.items()}


def _format(layer: str, mark: object) -> Format:
    if mark is None:
        return format_named("an unknown format")
    name = mark.get("format") if isinstance(mark, dict) else None
    if not isinstance(mark, dict) or not isinstance(name, str):
        raise CheckpointError(f"{layer} is marked as quantised without the name of a format: download the file again")
    return format_named(name).with_settings(mark)


def marked(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> dict[str, Tensor]:
    """The tensors with every quantised layer marked by a tensor of its own, whichever way the file marks it.

    So a mark goes along where layers are renamed or cut. Raises CheckpointError for a mark that cannot be read.
    """
    found = {key: tensor for key, tensor in tensors.items() if key.rpartition(".")[2] != SCALED_FP8}
    for layer, form in quantised_layers(tensors, metadata).items():
        if f"{layer}.{MARK}" not in found:
            found[f"{layer}.{MARK}"] = mark_tensor(form)
    return found


def damaged_scale(tensors: Mapping[str, Tensor], layers: Mapping[str, Format]) -> str | None:
    """The key of a scale that is not finite, or of a single one that is not above 0. Tensors on the meta device are
    passed over.
    """
    for layer, form in layers.items():
        for side in (*form.required, *(form.optional or ())):
            scale = tensors.get(f"{layer}.{side}")
            if scale is not None and not scale.is_meta and not _usable(scale, form, side):
                return f"{layer}.{side}"
    return None


def _usable(scale: Tensor, form: Format, side: str) -> bool:
    if form.name == "mxfp8" and side == "weight_scale":  # exponents
        return bool((scale.view(torch.uint8) != 255).all())
    numbers = (scale.view(torch.float8_e4m3fn) if scale.dtype == torch.uint8 else scale).float()
    return bool(numbers.isfinite().all() and (numbers.numel() > 1 or (numbers > 0).all()))


def mark_tensor(form: Format) -> Tensor:
    """The mark of a layer in this format."""
    return json_tensor({"format": form.name, **form.settings})


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
        elif form and f"{layer}.weight" in expected and form.side(name):
            wrong = _wrong_side(tensor, name, form, tuple(expected[f"{layer}.weight"].shape))
            if wrong:
                found.misshaped[key] = wrong
        elif not (form and f"{layer}.weight" in expected and form.accepts(name)):
            found.unexpected.append(key)
    return found


def _wrong(tensor: Tensor, logical: tuple[int, ...], form: Format | None) -> str | None:
    """What is wrong with a tensor that stands for one of this shape, in words."""
    shape, name = tuple(tensor.shape), f" ({form.name})" if form else ""
    if form and (fault := form.fault(logical)):
        return fault
    if form is None or form.stored:
        stored = form.stored_shape(logical) if form else logical
        if shape != stored:
            return f"{shape} instead of {stored}{name}"
    if form is None and not tensor.is_floating_point():
        return f"of {dtype_name(tensor.dtype)} instead of numbers with a fraction"
    if form and form.stored and tensor.dtype not in form.stored:
        return f"of {dtype_name(tensor.dtype)} instead of {' or '.join(map(dtype_name, form.stored))}{name}"
    return None


def _wrong_side(tensor: Tensor, name: str, form: Format, logical: tuple[int, ...]) -> str | None:
    """What is wrong with a side tensor of a weight of this shape, in words."""
    side, shape = form.side(name), tuple(tensor.shape)
    if side is None or form.fault(logical):
        return None
    allowed = side.shapes(logical, form.settings)
    if shape not in allowed:
        return f"{shape} instead of {' or '.join(map(str, allowed))} ({form.name})"
    if tensor.dtype not in side.stored:
        return f"of {dtype_name(tensor.dtype)} instead of {' or '.join(map(dtype_name, side.stored))} ({form.name})"
    return None
