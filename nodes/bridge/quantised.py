"""The host's layers for quantised weights, where its own fall short: models that are merged, LoRAs as hooks."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...sana_core.errors import InputError
from ...sana_core.quantised.formats import FORMATS, MARK

OWN = {"input_scale", "pre_quant_scale"}  # side tensors that the host keeps at the layer
SIDES = frozenset({MARK}.union(*({*form.required, *(form.optional or ())} for form in FORMATS.values()))) - OWN


def quantised_operations(base: Any) -> Any:
    """base: a class of layers as `comfy.ops.mixed_precision_ops` makes."""

    class Operations(base):
        class Linear(base.Linear):
            def __getattr__(self, name: str) -> Any:
                """Also the tensors beside the weight. The host asks for each entry of a state dict where models are
                merged.
                """
                if name in SIDES:
                    own = self.state_dict()
                    if name in own:
                        return own[name]
                return super().__getattr__(name)

            def set_weight(self, weight: Tensor, inplace_update: bool = False, **options: Any) -> Any:
                """The host updates weights in place for hooks alone. Models with quantised layers cannot be updated so."""
                if inplace_update:
                    raise InputError(
                        "a LoRA as a hook cannot change the weights of a quantised model: load it with Load LoRA or "
                        "Load LoRA (Bypass), or choose a model in 16 bits"
                    )
                return super().set_weight(weight, inplace_update=inplace_update, **options)

    return Operations
