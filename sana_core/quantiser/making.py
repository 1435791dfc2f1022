"""Quantise one weight, in the formats that ComfyUI reads.

comfy-kitchen does the arithmetic. What it returns gets the names that ComfyUI's loader looks for, and a mark in JSON
with the format and its settings. Source of names and marks: ComfyUI, comfy/ops.py (_load_quantized_module,
_quantized_weight_state_dict).
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor

from ..checkpoint.read_json import json_tensor
from ..errors import InputError
from ..quantised.formats import FORMATS, Shape
from ..quantised.pieces import TILE, dequantised_pieces

PACKAGE = "comfy-kitchen"
E4M3_MAX, E2M1_MAX = 448.0, 6.0  # the largest numbers of fp8 (e4m3) and fp4
ROTATIONS = (256, 64, 16)  # sizes of ConvRot's groups: powers of 4
CHUNK = 1 << 23  # numbers that are quantised at once, where rows do not depend on one another


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a format of the command line is made.

    format: its name in ComfyUI.  layout: class of comfy-kitchen.  rotations: sizes of groups it is rotated in; empty:
    not rotated.  whole: the weight is quantised in one piece.  settings: of the layout.  stated: the settings that the
    mark repeats.  largest: the largest number of a scaled input, for formats with a stored scale of the input.
    """

    format: str
    layout: str
    rotations: tuple[int, ...] = ()
    whole: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    stated: tuple[str, ...] = ()
    largest: float | None = None


RECIPES: dict[str, Recipe] = {
    "int8": Recipe(format="int8_tensorwise", layout="TensorWiseINT8Layout", settings={"per_channel": True}),
    "int8-convrot": Recipe(
        format="int8_tensorwise",
        layout="TensorWiseINT8Layout",
        rotations=ROTATIONS,
        settings={"per_channel": True, "convrot": True},
        stated=("convrot", "convrot_groupsize"),
    ),
    "fp8": Recipe(format="float8_e4m3fn", layout="TensorCoreFP8Layout", largest=E4M3_MAX),
    "mxfp8": Recipe(format="mxfp8", layout="TensorCoreMXFP8Layout"),
    "nvfp4": Recipe(format="nvfp4", layout="TensorCoreNVFP4Layout", largest=E4M3_MAX * E2M1_MAX),
    "w4a8": Recipe(
        format="asym_w4a8_int8",
        layout="AsymW4A8Int8Layout",
        rotations=ROTATIONS,
        whole=True,  # its codebook is chosen by all rows
        settings={"group_size": 16, "symmetric": True},
        stated=("group_size", "convrot_groupsize"),
    ),
    "w4a4": Recipe(
        format="convrot_w4a4",
        layout="TensorCoreConvRotW4A4Layout",
        rotations=(256, 64),  # its own groups have 64 numbers
        stated=("convrot_groupsize",),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Quantised:
    """A quantised weight.

    format: as on the command line, after the fallback of `fitting`.  shape: of the weight.  parts: what is stored, by
    the last part of the key: "weight", its side tensors, "comfy_quant".
    """

    format: str
    shape: Shape
    parts: dict[str, Tensor]

    def dequantised(self) -> Tensor:
        """What the parts stand for: (N, K), float32."""
        return torch.cat([numbers for _, numbers in self._pieces()])

    def error(self, weight: Tensor) -> float:
        """The relative error ||W - Q(W)|| / ||W||; 0 for a weight of zeros."""
        return relative_error((weight[start : start + len(numbers)], numbers) for start, numbers in self._pieces())

    def _pieces(self) -> Iterator[tuple[int, Tensor]]:
        parts = dict(self.parts)
        form = FORMATS[RECIPES[self.format].format].with_settings(json.loads(bytes(parts.pop("comfy_quant").tolist())))
        return dequantised_pieces(form, parts, self.shape)


def quantise(weight: Tensor, format: str, *, input_scale: float | None = None, name: str = "the weight") -> Quantised:
    """Quantise a weight (N, K) of float16, bfloat16 or float32; all is computed from float32.

    format: a key of RECIPES. Where it does not fit the width, the weight is quantised as `fitting` says.  input_scale:
    of the layer's input, see `input_scale`; formats without a stored one pass it over.  name: of the layer, for
    messages.  Raises InputError for an unknown format, another weight, numbers that are not finite, and without
    comfy-kitchen.
    """
    if format not in RECIPES:
        raise InputError(f'unknown format "{format}", expected one of {", ".join(RECIPES)}')
    if weight.ndim != 2 or not weight.numel() or not weight.is_floating_point():
        raise InputError(f"{name} is {tuple(weight.shape)} of {weight.dtype}: only matrices of numbers are quantised")
    peak = _peak(weight, name)
    format = fitting(format, weight.shape[1])
    recipe = RECIPES[format]
    settings = dict(recipe.settings)
    if rotation := _rotation(recipe, weight.shape[1]):
        settings["convrot_groupsize"] = rotation
    stated = {"format": recipe.format, **{key: settings[key] for key in recipe.stated}}
    if recipe.largest:  # one scale for the whole weight, so that its rows can be quantised in pieces
        settings["scale"] = torch.tensor(peak / recipe.largest if peak else 1.0, dtype=torch.float32)
    make = partial(_layout(format), **settings)
    stored = FORMATS[recipe.format].stored_shape(tuple(weight.shape))
    parts = _parts((make(rows.float()).state_dict("weight") for rows in _rows(weight, recipe.whole)), stored)
    if recipe.largest and input_scale is not None:
        parts["input_scale"] = torch.tensor(input_scale, dtype=torch.float32)
    elif recipe.format == "float8_e4m3fn":
        stated["full_precision_matrix_mult"] = True  # else ComfyUI rounds the input at scale 1, which cuts it off
    parts["comfy_quant"] = json_tensor(stated)
    return Quantised(format=format, shape=tuple(weight.shape), parts=parts)


def relative_error(pieces: Iterable[tuple[Tensor, Tensor]]) -> float:
    """||W - Q(W)|| / ||W||, from pieces of W and what was stored of them; 0 for a weight of zeros."""
    wrong = norm = 0.0
    for weight, stored in pieces:
        weight = weight.float()
        norm += float(weight.square().sum(dtype=torch.float64))
        wrong += float((stored.to(weight) - weight).square().sum(dtype=torch.float64))
    return (wrong / norm) ** 0.5 if norm else 0.0


def fitting(format: str, width: int) -> str:
    """The format for a weight of this width: `format` itself, or int8 where no group of its rotation divides it."""
    recipe = RECIPES[format]
    return format if not recipe.rotations or _rotation(recipe, width) else "int8"


def input_scale(format: str, largest: float | None) -> float | None:
    """What divides the input of a layer before it is rounded, from its largest absolute value. None: not known, or the
    format finds its own at every call.

    comfy-kitchen's fp8 maps the largest value to 448; its nvfp4 has the same two levels as a weight, so 448 x 6.
    """
    recipe = RECIPES.get(format)
    return largest / recipe.largest if recipe and recipe.largest and largest else None


def check_available(format: str) -> None:
    """Raise InputError without comfy-kitchen, and if its version, or this PyTorch, has not the format."""
    try:
        quantise(torch.ones(32, max(ROTATIONS)), format)
    except InputError:
        raise
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{PACKAGE} {_version()} with PyTorch {torch.__version__} cannot make {format} ({error}): "
            f"pip install --upgrade {PACKAGE} torch"
        ) from error


def give_back_memory() -> None:
    """Let glibc return what is free to the system: it would pile up from weight to weight, to gigabytes."""
    with suppress(OSError, TypeError, AttributeError):  # other systems have no such function, and no need of it
        ctypes.CDLL(None).malloc_trim(0)


def _layout(format: str) -> Callable[..., Any]:
    """What makes comfy-kitchen's tensor of a matrix of float32."""
    recipe = RECIPES[format]
    try:
        from comfy_kitchen import tensor as layouts
    except ImportError as error:
        raise InputError(
            f"quantising to {format} needs the package {PACKAGE} ({error}): pip install {PACKAGE}"
        ) from error
    except RuntimeError as error:  # some versions of Triton cannot be imported without a GPU
        raise InputError(
            f"{PACKAGE} {_version()} cannot start here ({error}): use a newer PyTorch and Triton"
        ) from error
    if not hasattr(layouts, recipe.layout):
        raise InputError(f"{PACKAGE} {_version()} does not know {format}: pip install --upgrade {PACKAGE}")
    return partial(layouts.QuantizedTensor.from_float, layout_cls=recipe.layout)


def _version() -> str:
    try:
        return version(PACKAGE)
    except PackageNotFoundError:
        return "here"


def _rotation(recipe: Recipe, width: int) -> int | None:
    return next((size for size in recipe.rotations if width % size == 0), None)


def _rows(weight: Tensor, whole: bool) -> tuple[Tensor, ...]:
    rows = max(CHUNK // weight.shape[1] // TILE, 1) * TILE
    return (weight,) if whole else weight.split(rows)


def _peak(weight: Tensor, name: str) -> float:
    """The largest absolute number. Raises InputError if one is not finite.

    No tensor outlives its piece: small ones between large ones would keep glibc from using that memory again.
    """
    peak = 0.0
    for rows in _rows(weight, whole=False):
        low, high = (float(end) for end in rows.aminmax())
        if not max(-low, high) < float("inf"):  # NaN is both ends
            raise InputError(f"{name} has numbers that are not finite (NaN or infinity): the file is damaged")
        peak = max(peak, -low, high)
    return peak


def _parts(pieces: Iterable[dict[str, Tensor]], stored: Shape) -> dict[str, Tensor]:
    """The tensors of all pieces under the names of one weight, whose tensor gets the shape `stored`. It is filled piece
    by piece: of a large embedding there must not be two.
    """
    whole, row, sides = None, 0, {}
    for piece in pieces:
        own = piece.pop("weight")
        if whole is None:
            whole = own if tuple(own.shape) == stored else own.new_empty(stored)
        if whole is not own:
            whole[row : row + len(own)] = own
            row += len(own)
        for name, tensor in piece.items():
            sides.setdefault(name, []).append(tensor)
        give_back_memory()
    assert whole is not None
    return {"weight": whole, **{name: _side(tensors) for name, tensors in sides.items()}}


def _side(tensors: list[Tensor]) -> Tensor:
    """The side tensors of all pieces, one below the other; a single number is the same in all. Scales of blocks that
    only newer versions of PyTorch have a type for (e8m0) are stored as bytes, which ComfyUI reads.
    """
    first = tensors[0]
    if len(tensors) > 1 and first.ndim:
        first = torch.cat([tensor.contiguous().view(torch.uint8) for tensor in tensors]).view(first.dtype)
    return first.view(torch.uint8) if str(first.dtype) == "torch.float8_e8m0fnu" else first
