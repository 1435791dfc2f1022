"""DoRA on rows as it is trained: the host divides by the row lengths of the unchanged weight, training divides by those
of the changed one (DoRA, arXiv:2402.09353, eq. 5; PEFT, LyCORIS and OneTrainer alike). On columns the host does the
same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from comfy.weight_adapter import WeightAdapterBase
from comfy.weight_adapter.loha import LoHaAdapter
from comfy.weight_adapter.lokr import LoKrAdapter
from comfy.weight_adapter.lora import LoRAAdapter
from torch import Tensor

from ...sana_core.lora.factors import rescaled


class ExactRows(WeightAdapterBase):
    """Before one of the host's adapters among the base classes. dora: where its `weights` hold the lengths."""

    dora: ClassVar[int]
    plain: ClassVar[Callable[..., WeightAdapterBase]]

    def calculate_weight(
        self,
        weight: Tensor,
        key: str,
        strength: float,
        strength_model: float,
        offset: Any,
        function: Callable[[Tensor], Tensor],
        intermediate_dtype: torch.dtype = torch.float32,
        original_weight: Any = None,
    ) -> Tensor:
        """`weight` (out, in, ...) with `strength` times the change, in place."""
        lengths = self.weights[self.dora]
        if lengths.shape[0] != weight.shape[0]:
            common = (offset, function, intermediate_dtype, original_weight)
            return super().calculate_weight(weight, key, strength, strength_model, *common)
        plain = type(self).plain(self.loaded_keys, (*self.weights[: self.dora], None, *self.weights[self.dora + 1 :]))
        start = weight.to(intermediate_dtype)
        merged = plain.calculate_weight(start.clone(), key, 1.0, 1.0, None, lambda change: change, intermediate_dtype)
        change = rescaled(merged, lengths.to(merged), per_row=True) - start
        weight += function((strength * change).to(weight.dtype))
        return weight


class RowLoRA(ExactRows, LoRAAdapter):
    dora, plain = 4, LoRAAdapter


class RowLoHa(ExactRows, LoHaAdapter):
    dora, plain = 7, LoHaAdapter


class RowLoKr(ExactRows, LoKrAdapter):
    dora, plain = 8, LoKrAdapter


def exact_dora(adapter: WeightAdapterBase) -> WeightAdapterBase:
    """The adapter, or its exact form where it is a DoRA."""
    exact = next((kind for kind in (RowLoRA, RowLoHa, RowLoKr) if type(adapter) is kind.plain), None)
    if exact is None or adapter.weights[exact.dora] is None:
        return adapter
    return exact(adapter.loaded_keys, adapter.weights)
