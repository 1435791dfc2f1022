"""LoRA adapters of the host that do not go on without memory: the host's log any error and leave the weight as it was,
so that the picture is drawn with a part of the LoRA.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

from comfy.weight_adapter import WeightAdapterBase
from torch import Tensor

from ...sana_core.device import out_of_memory


class Key(str):
    """The name of a weight. The host writes it into the line for its log while it handles an error: here a shortage of
    memory goes on its way.
    """

    def __format__(self, spec: str) -> str:
        error = sys.exc_info()[1]
        if error is not None and out_of_memory(error):
            raise error
        return super().__format__(spec)


def raising(adapter: WeightAdapterBase) -> WeightAdapterBase:
    """The same adapter, which raises where memory runs out."""
    adapter.__class__ = _raising(type(adapter))
    return adapter


@functools.cache
def _raising(kind: type[Any]) -> type[Any]:
    def calculate_weight(self: Any, weight: Tensor, key: str, *args: Any, **kwargs: Any) -> Tensor:
        return kind.calculate_weight(self, weight, Key(key), *args, **kwargs)

    return type(kind.__name__, (kind,), {"calculate_weight": calculate_weight, "__module__": kind.__module__})
