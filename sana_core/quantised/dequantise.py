"""The numbers that a quantised weight stands for, in plain PyTorch.

Each function takes the tensors of a layer by name, what its mark says, and the shape (N, K) of the weight; it returns
float32. They do what the `dequantize` of comfy-kitchen's layouts does, see its `backends/eager/`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from . import gguf_blocks
from .formats import FORMATS, GGUF, Settings, Shape, rotation

Parts = Mapping[str, Tensor]
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
BIAS_E8M0 = 127


def dequantise(name: str, parts: Parts, settings: Settings, shape: Shape) -> Tensor:
    """The weight (N, K), float32, on the device of its tensors. name: of the format, one of `FORMATS`."""
    return FUNCTIONS[name](parts, settings, shape)


def _float8(parts: Parts, settings: Settings, shape: Shape) -> Tensor:
    return _numbers(parts["weight"], torch.float8_e4m3fn) * _scale(parts["weight_scale"])


def _float8_e5m2(parts: Parts, settings: Settings, shape: Shape) -> Tensor:
    return _numbers(parts["weight"], torch.float8_e5m2) * _scale(parts["weight_scale"])


def _scaled_fp8(parts: Parts, settings: Settings, shape: Shape) -> Tensor:
    return _numbers(parts["weight"], torch.float8_e4m3fn) * _scale(parts["scale_weight"])


def _int8(parts: Parts, settings: Settings, shape: Shape) -> Tensor:
    weight = parts["weight"].float() * _scale(parts["weight_scale"])
    return rotated(weight, rotation(settings)) if settings.get("convrot") else weight


def _mxfp8(parts: Parts, settings: Settings, shape: Shape) -> Tensor:
    weight = _numbers(parts["weight"], torch.float8_e4m3fn)
    rows, columns = weight.shape
    exponents = _untiled(parts["weight_scale"].view(torch.uint8), rows, columns // 32)
    scales = torch.exp2(exponents.float() - BIAS_E8M0)
    return _by_groups(weight, scales)[: shape[0], : shape[1]]


def _nvfp4(parts: Parts, settings: Settings, shape: Shape) -> Tensor:
    packed = parts["weight"].view(torch.uint8)
    table = torch.tensor(E2M1, dtype=torch.float32, device=packed.device)
    weight = table[_pairs(packed >> 4, packed & 15).int()]
    rows, columns = weight.shape
    tiles = parts["weight_scale"].view(torch.uint8).view(torch.float8_e4m3fn)
    scales = _untiled(tiles, rows, columns // 16).float() * parts["weight_scale_2"].float().reshape(())
    weight = _by_groups(weight, scales)[: shape[0], : shape[1]]
    smoothing = parts.get("pre_quant_scale")  # ModelOpt multiplies the input of the layer by it
    return weight if smoothing is None else weight * smoothing.float()


def _w4a4(parts: Parts, settings: Settings, shape: Shape) -> Tensor:
    packed = parts["weight"].view(torch.int8)
    low = (packed << 4) >> 4  # with its sign
    return rotated(_pairs(low, packed >> 4) * parts["weight_scale"].float().reshape(-1, 1), rotation(settings))


def _w4a8(parts: Parts, settings: Settings, shape: Shape) -> Tensor:
    packed = parts["weight"].view(torch.uint8)
    codes = _pairs(packed & 15, packed >> 4)
    codebook = parts.get("weight_codebook")
    levels = codes.float() - 8 if codebook is None else codebook.float()[codes.int()]
    scales = parts["weight_s_rel"]
    scales = scales.view(torch.float8_e4m3fn) if scales.dtype == torch.uint8 else scales
    groups = _by_groups(levels, scales.float()).round().clamp(-127, 127)  # the int8 it computes in
    return rotated(groups * parts["weight_s_channel"].float().reshape(-1, 1), rotation(settings))


def _gguf(kind: str) -> Callable[[Parts, Settings, Shape], Tensor]:
    return lambda parts, settings, shape: gguf_blocks.dequantise(parts["weight"], kind)


FUNCTIONS: dict[str, Callable[[Parts, Settings, Shape], Tensor]] = {
    "float8_e4m3fn": _float8,
    "float8_e5m2": _float8_e5m2,
    "scaled_fp8": _scaled_fp8,
    "int8_tensorwise": _int8,
    "mxfp8": _mxfp8,
    "nvfp4": _nvfp4,
    "convrot_w4a4": _w4a4,
    "asym_w4a8_int8": _w4a8,
    **{name: _gguf(name.removeprefix(GGUF)) for name in FORMATS if name.startswith(GGUF)},
}


def rotated(weight: Tensor, size: int) -> Tensor:
    """Groups of `size` numbers of each row times a symmetric Hadamard matrix, which undoes itself (ConvRot)."""
    four = torch.tensor([[1, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]])
    matrix = four.to(weight) / 2
    for _ in range(round(math.log(size, 4)) - 1):
        matrix = torch.kron(matrix, four.to(weight) / 2)
    return (weight.unflatten(-1, (-1, size)) @ matrix).flatten(-2)


def _numbers(weight: Tensor, bytes_of: torch.dtype) -> Tensor:
    """Stored numbers as float32. Bytes are numbers of `bytes_of`."""
    return (weight.view(bytes_of) if weight.dtype == torch.uint8 else weight).float()


def _scale(scale: Tensor) -> Tensor:
    """One scale, or one for each row, so that it multiplies the weight."""
    scale = scale.float()
    return scale.reshape(()) if scale.numel() == 1 else scale.reshape(-1, 1)


def _pairs(first: Tensor, second: Tensor) -> Tensor:
    """Two numbers for each byte, side by side."""
    return torch.stack([first, second], dim=-1).flatten(-2)


def _by_groups(weight: Tensor, scales: Tensor) -> Tensor:
    """(N, K) times scales (N, groups), one for each group of a row."""
    return (weight.unflatten(-1, (scales.shape[-1], -1)) * scales[..., None]).flatten(-2)


def _untiled(tiled: Tensor, rows: int, columns: int) -> Tensor:
    """Scales (rows, columns) out of cuBLAS's tiles: 128 x 4 scales, stored as 32 x 4 x 4 (cuBLAS, "1D block scaling
    factors layout").
    """
    down, across = -(-rows // 128), -(-columns // 4)
    tiles = tiled.reshape(down, across, 32, 4, 4).permute(0, 3, 2, 1, 4)
    return tiles.reshape(down * 128, across * 4)[:rows, :columns]
