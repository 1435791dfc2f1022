"""Matrix products of quantised weights by the kernels of comfy-kitchen (optional package), where the GPU has some."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .formats import GROUP, Settings, group_size, rotation

if TYPE_CHECKING:
    from .layers import QuantisedWeight

CUDA = (13,)  # what the kernels of its wheels are built for
FULL_PRECISION = "full_precision_matrix_mult"  # in a mark: the product is to be made of 16-bit numbers


@dataclass(frozen=True)
class Layout:
    """How comfy-kitchen calls a format and its tensors. input: whether it wants the other factor quantised as well."""

    name: str
    tensors: Mapping[str, str]
    input: bool = False


LAYOUTS = {
    "float8_e4m3fn": Layout("TensorCoreFP8Layout", {"scale": "weight_scale"}, input=True),
    "mxfp8": Layout("TensorCoreMXFP8Layout", {"scale": "weight_scale"}, input=True),
    "nvfp4": Layout("TensorCoreNVFP4Layout", {"scale": "weight_scale_2", "block_scale": "weight_scale"}, input=True),
    "int8_tensorwise": Layout("TensorWiseINT8Layout", {"scale": "weight_scale"}),
    "convrot_w4a4": Layout("TensorCoreConvRotW4A4Layout", {"scale": "weight_scale"}),
    "asym_w4a8_int8": Layout(
        "AsymW4A8Int8Layout",
        {"scale": "weight_s_rel", "s_channel": "weight_s_channel", "codebook": "weight_codebook"},
    ),
}
BYTES_OF = {("nvfp4", "weight_scale"): "float8_e4m3fn", ("mxfp8", "weight_scale"): "float8_e8m0fnu",
            ("asym_w4a8_int8", "weight_s_rel"): "float8_e4m3fn", ("float8_e4m3fn", "weight"): "float8_e4m3fn",
            ("mxfp8", "weight"): "float8_e4m3fn"}  # fmt: skip


@functools.cache
def package() -> Any:
    """comfy-kitchen's module of layouts, None where it is not installed."""
    try:
        from comfy_kitchen import tensor
    except ImportError:
        return None
    return tensor


def linear(x: Tensor, weight: QuantisedWeight, bias: Tensor | None) -> Tensor | None:
    """x @ weight.T + bias by a kernel; None where there is none for this GPU and format."""
    if not x.is_cuda or not _has_kernels() or (torch.is_grad_enabled() and x.requires_grad):
        return None
    form = weight.form
    layout = LAYOUTS.get(form.name)
    if layout is None or form.settings.get(FULL_PRECISION) or "pre_quant_scale" in weight.parts:
        return None
    if form.name == "float8_e4m3fn" and "input_scale" not in weight.parts:
        return None  # its input would be cut off at 448
    kind = getattr(package(), layout.name, None)
    return product(x, weight, bias) if kind is not None and kind.supports_fast_matmul() else None


def product(x: Tensor, weight: QuantisedWeight, bias: Tensor | None) -> Tensor:
    """x @ weight.T + bias by comfy-kitchen, with its eager operations where it has no kernel. x: (..., K)."""
    kitchen, layout, parts = package(), LAYOUTS[weight.form.name], weight.parts
    params: dict[str, Any] = {
        field: _typed(weight.form.name, name, parts[name]) for field, name in layout.tensors.items() if name in parts
    }
    params |= _settings(weight.form.name, weight.form.settings)
    kind = getattr(kitchen, layout.name)
    params = kind.Params(orig_dtype=x.dtype, orig_shape=tuple(weight.shape), **params)
    factor = kitchen.QuantizedTensor(_typed(weight.form.name, "weight", parts["weight"]), layout.name, params)
    rows = x.reshape(-1, x.shape[-1])
    if layout.input:
        rows = kitchen.QuantizedTensor.from_float(rows, layout.name, scale=parts.get("input_scale"))
    return F.linear(rows, factor, bias).view(*x.shape[:-1], weight.shape[0])


def _settings(name: str, settings: Settings) -> dict[str, Any]:
    if name == "int8_tensorwise":
        return {"convrot": True, GROUP: rotation(settings)} if settings.get("convrot") else {}
    if name == "convrot_w4a4":
        return {GROUP: rotation(settings), "linear_dtype": settings.get("linear_dtype", "int4")}
    return {GROUP: rotation(settings), "group_size": group_size(settings)} if name == "asym_w4a8_int8" else {}


def _typed(name: str, part: str, tensor: Tensor) -> Tensor:
    """A tensor as the kernel knows it: bytes become the numbers that they are, one scale for each row a vector."""
    if (name, part) == ("convrot_w4a4", "weight_scale") or part == "weight_s_channel":
        return tensor.float().flatten()
    wanted = BYTES_OF.get((name, part))
    if tensor.dtype == torch.uint8 and wanted:
        return tensor.view(getattr(torch, wanted))
    return tensor.view(torch.int8) if part == "weight" and name in ("convrot_w4a4", "asym_w4a8_int8") else tensor


@functools.cache
def _has_kernels() -> bool:
    version = tuple(int(part) for part in (torch.version.cuda or "0").split("."))
    return version >= CUDA and package() is not None
