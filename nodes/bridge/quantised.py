"""The host's layers for quantised weights, mended: merged models, LoRAs as hooks, products in full precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from comfy.quant_ops import QuantizedTensor
from torch import Tensor

from ...sana_core.checkpoint.weights import quantised_layers
from ...sana_core.errors import InputError
from ...sana_core.quantised.dequantise import dequantise
from ...sana_core.quantised.formats import MARK, SIDES

BESIDE_WEIGHT = SIDES - {"input_scale", "pre_quant_scale"}  # the host keeps these two at the layer


class Moved:
    """A layer whose quantised weight can go on where the mode has changed. The host unloads models outside inference
    mode, as for `/free`, and gives them plain tensors there; inside, PyTorch makes no parameter of those.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        return super()._apply(lambda tensor: _of_this_mode(fn(tensor)), recurse)  # type: ignore[misc]


def _of_this_mode(tensor: Tensor) -> Tensor:
    plain = isinstance(tensor, QuantizedTensor) and not tensor.is_inference()
    return tensor.clone() if plain and torch.is_inference_mode_enabled() else tensor


def quantised_operations(base: Any) -> Any:
    """base: a class of layers as `comfy.ops.mixed_precision_ops` makes."""

    class Operations(base):
        class Linear(Moved, base.Linear):
            def __getattr__(self, name: str) -> Any:
                """Also the tensors beside the weight. The host asks for each entry of a state dict where models are
                merged.
                """
                if name in BESIDE_WEIGHT:
                    own = self.state_dict()
                    if name in own:
                        return own[name]
                return super().__getattr__(name)

            def _forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
                """Where the host wants full precision its tensors would still round the input to 8 bits, if the weight
                has the input's type.
                """
                if self._full_precision_mm and isinstance(weight, QuantizedTensor):
                    weight = weight.dequantize()
                return super()._forward(input, weight, bias)

            def set_weight(self, weight: Tensor, inplace_update: bool = False, **options: Any) -> Any:
                """The host updates weights in place for hooks alone, which its quantised tensors do not allow."""
                if inplace_update:
                    raise InputError(
                        "a LoRA as a hook cannot change the weights of a quantised model: load it with Load LoRA or "
                        "Load LoRA (Bypass), or choose a model in 16 bits"
                    )
                return super().set_weight(weight, inplace_update=inplace_update, **options)

        class Embedding(Moved, base.Embedding):
            def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
                """Rows become numbers in float32: the host would round them to the type of the plain weights. A host
                that cannot read rows of the format gets all numbers at once.
                """
                own = {key.removeprefix(prefix): state_dict[key] for key in state_dict if key.startswith(prefix)}
                super()._load_from_state_dict(state_dict, prefix, *args)
                if isinstance(self.weight, QuantizedTensor):
                    self.weight = torch.nn.Parameter(self.weight.to(torch.float32), requires_grad=False)
                elif MARK in own:
                    (form,) = quantised_layers({f"layer.{MARK}": own[MARK]}).values()
                    numbers = dequantise(form.name, own, form.settings, tuple(self.weight.shape))
                    self.weight = torch.nn.Parameter(numbers.to(self.weight), requires_grad=False)

    return Operations
