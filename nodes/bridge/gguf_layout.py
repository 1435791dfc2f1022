"""Rows of GGUF's blocks as one of ComfyUI's quantised tensors, which the host moves, patches and saves.

Only for a host with comfy-kitchen, see `gguf.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from comfy.quant_ops import QuantizedLayout, QuantizedTensor, register_layout_class
from comfy_kitchen.tensor import BaseLayoutParams
from torch import Tensor

from ...sana_core.quantised.gguf_blocks import dequantise, quantise_q8_0

LAYOUT = "SanaGGUFLayout"
PATCHED = "q8_0"
"""Block type of a weight that a LoRA was merged into: the finest one. Of most others nobody writes the blocks."""


class GGUFLayout(QuantizedLayout):
    """Rows of blocks, see `gguf_blocks.py`. The host asks for one scale, which stands for nothing."""

    @dataclass(frozen=True)
    class Params(BaseLayoutParams):
        kind: str = PATCHED

    @classmethod
    def quantize(cls, tensor: Tensor, *, stochastic_rounding: int | None = 0, **_: Any) -> tuple[Tensor, Params]:
        """tensor: (N, K), with LoRAs merged in. The host gives a seed, so that small changes survive on average."""
        generator = None
        if stochastic_rounding:
            generator = torch.Generator(tensor.device).manual_seed(stochastic_rounding)
        return quantise_q8_0(tensor, generator), _params(PATCHED, tuple(tensor.shape), tensor.dtype, tensor.device)

    @classmethod
    def dequantize(cls, qdata: Tensor, params: Params) -> Tensor:
        return dequantise(qdata, params.kind).to(params.orig_dtype)

    @classmethod
    def get_plain_tensors(cls, qtensor: QuantizedTensor) -> tuple[Tensor, ...]:
        return (qtensor._qdata,)

    @classmethod
    def state_dict_tensors(cls, qdata: Tensor, params: Params) -> dict[str, Tensor]:
        return {"": qdata}


register_layout_class(LAYOUT, GGUFLayout)


def packed_tensor(packed: Tensor, kind: str, shape: tuple[int, ...], dtype: torch.dtype) -> QuantizedTensor:
    """The weight (N, K) that rows of blocks of this type stand for, which multiplies in `dtype`."""
    return QuantizedTensor(packed, LAYOUT, _params(kind, shape, dtype, packed.device))


def _params(kind: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> GGUFLayout.Params:
    scale = torch.ones((), device=device, dtype=torch.float32)
    return GGUFLayout.Params(scale=scale, orig_dtype=dtype, orig_shape=shape, kind=kind)
