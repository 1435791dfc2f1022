"""The host's layers and attention as the networks' `Kit`."""

from __future__ import annotations

from typing import Any

import comfy.ops
import torch
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor

from ...sana_core.kernels.gated_depthwise import gated
from ...sana_core.kit import Kit


class HostKit(Kit):
    """Layers whose weights the host may move, cast and patch at each use."""

    def is_bare(self, layer: Any, like: Tensor) -> bool:
        """May the weight that a layer holds be used as it is? Not if patches are added to it at use, or if it is in
        memory of the host's own (dynamic VRAM).
        """
        at_use = getattr(layer, "weight_function", ()) or getattr(layer, "bias_function", ()) or hasattr(layer, "_v")
        return not at_use and super().is_bare(layer, like)

    def gated_depthwise(self, layer: Any, maps: Tensor, *, in_one_piece: bool = False) -> Tensor:
        """See `Kit`. The host lends the weights as the layer itself gets them."""
        if not self.is_ours(layer):
            return gated(layer, maps, in_one_piece=in_one_piece)
        weight, bias, lent = comfy.ops.cast_bias_weight(layer, maps, offloadable=True)
        try:
            return self.kernels.gated_depthwise(maps, weight, bias, in_one_piece)
        finally:
            comfy.ops.uncast_bias_weight(layer, weight, bias, lent)


def host_attention(
    query: Tensor, key: Tensor, value: Tensor, heads: int, *, bias: Tensor | None, options: dict[str, Any]
) -> Tensor:
    """The host's attention, which other nodes may override. query (B, N, C), key and value (B, L, C) -> (B, N, C).

    options: the host's transformer_options, which a caption carries to every attention.
    """
    return optimized_attention(query, key, value, heads, mask=bias, transformer_options=options)


def host_kit(operations: Any, device: torch.device | None, dtype: torch.dtype | None) -> Kit:
    """The host's layers and attention."""
    return HostKit(layers=operations, attention=host_attention, device=device, dtype=dtype)
