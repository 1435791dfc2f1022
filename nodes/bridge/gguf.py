"""GGUF's weights as ComfyUI's quantised tensors: dequantised layer by layer at use, moved and patched by the host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import comfy.ops
import torch
import torch.nn.functional as F
from comfy.quant_ops import QuantizedLayout, QuantizedTensor, register_layout_class
from comfy_kitchen.tensor import BaseLayoutParams
from torch import Tensor

from ...sana_core.checkpoint.weights import mark_tensor, quantised_layers
from ...sana_core.quantised.formats import GGUF, MARK, format_named
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
        scale = torch.ones((), device=tensor.device, dtype=torch.float32)
        params = cls.Params(scale=scale, orig_dtype=tensor.dtype, orig_shape=tuple(tensor.shape), kind=PATCHED)
        return quantise_q8_0(tensor, generator), params

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


def has_gguf(tensors: Mapping[str, Tensor]) -> bool:
    """Are there layers in a GGUF format in a state dict?"""
    return any(form.name.startswith(GGUF) for form in quantised_layers(tensors).values())


def gguf_operations(base: Any) -> Any:
    """The host's layers, which know GGUF besides.  base: a class of them as `comfy.ops.mixed_precision_ops` makes."""

    class Operations(base):
        class Linear(base.Linear):
            def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
                weight = _taken(self, state_dict, prefix, self._orig_shape, self.factory_kwargs["dtype"])
                if weight is None:
                    super()._load_from_state_dict(state_dict, prefix, *args)
                    return
                # there are no kernels for packed numbers: the host multiplies by what they stand for
                self.layout_type, self._full_precision_mm = LAYOUT, True
                _load_rest(self, weight, state_dict, prefix, *args)

            def state_dict(self, *args: Any, destination: Any = None, prefix: str = "", **options: Any) -> Any:
                return _marked(
                    self, super().state_dict(*args, destination=destination, prefix=prefix, **options), prefix
                )

        class Embedding(base.Embedding):
            def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
                shape = (self.num_embeddings, self.embedding_dim)
                weight = _taken(self, state_dict, prefix, shape, base._compute_dtype)
                if weight is None:
                    super()._load_from_state_dict(state_dict, prefix, *args)
                else:
                    _load_rest(self, weight, state_dict, prefix, *args)

            def state_dict(self, *args: Any, destination: Any = None, prefix: str = "", **options: Any) -> Any:
                return _marked(
                    self, super().state_dict(*args, destination=destination, prefix=prefix, **options), prefix
                )

            def forward_comfy_cast_weights(self, input: Tensor, out_dtype: torch.dtype | None = None) -> Tensor:
                """Only the rows that are read become numbers."""
                if not _is_gguf(self.weight) or self.weight_function:
                    return super().forward_comfy_cast_weights(input, out_dtype=out_dtype)
                weight, _, lent = comfy.ops.cast_bias_weight(
                    self, device=input.device, dtype=self.weight.dtype, offloadable=True
                )
                try:
                    if _is_gguf(weight):
                        rows = dequantise(F.embedding(input, weight._qdata), weight._params.kind)
                    else:
                        rows = F.embedding(input, weight)
                    return rows.to(out_dtype or self.weight.dtype)
                finally:
                    comfy.ops.uncast_bias_weight(self, weight, None, lent)

    return Operations


def _is_gguf(weight: Any) -> bool:
    return isinstance(weight, QuantizedTensor) and weight._layout_cls == LAYOUT


def _taken(
    layer: Any, state_dict: dict[str, Tensor], prefix: str, shape: tuple[int, int], dtype: torch.dtype
) -> QuantizedTensor | None:
    """The weight of a layer out of a state dict; None, and nothing taken, where it is in no GGUF format."""
    mark = f"{prefix}{MARK}"
    layers = quantised_layers({mark: state_dict[mark]}) if mark in state_dict else {}
    form = next(iter(layers.values()), None)
    if form is None or not form.name.startswith(GGUF):
        return None
    del state_dict[mark]
    packed = state_dict.pop(f"{prefix}weight")
    layer.quant_format = form.name
    params = GGUFLayout.Params(
        scale=torch.ones((), dtype=torch.float32, device=packed.device),
        orig_dtype=dtype,
        orig_shape=shape,
        kind=form.name.removeprefix(GGUF),
    )
    return QuantizedTensor(packed, LAYOUT, params)


def _load_rest(layer: Any, weight: QuantizedTensor, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
    """Give a layer its weight, and its bias by PyTorch's own way."""
    device = getattr(layer, "factory_kwargs", {}).get("device")
    layer.weight = torch.nn.Parameter(weight if device is None else weight.to(device=device), requires_grad=False)
    missing = args[2]
    torch.nn.Module._load_from_state_dict(layer, state_dict, prefix, *args)
    if f"{prefix}weight" in missing:
        missing.remove(f"{prefix}weight")


def _marked(layer: Any, state_dict: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The state dict of a layer with the block type that it has now, which a LoRA may have changed."""
    if _is_gguf(layer.weight):
        state_dict[f"{prefix}{MARK}"] = mark_tensor(format_named(GGUF + layer.weight._params.kind))
    return state_dict
