"""What networks are built from: layer classes, attention, number type and device, as one value.

A host passes its own: ComfyUI's layers bring offloading and quantised weights, its attention the user's choice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .kernels.attention import softmax_attention
from .kernels.choice import CHOSEN, PLAIN, Kernels
from .kernels.gated_depthwise import gated


class Layers(Protocol):
    """Where layer classes come from: `torch.nn`, or a namespace of classes with the same arguments."""

    @property
    def Linear(self) -> Callable[..., nn.Linear]: ...
    @property
    def Conv2d(self) -> Callable[..., nn.Conv2d]: ...
    @property
    def RMSNorm(self) -> Callable[..., nn.RMSNorm]: ...


class Attention(Protocol):
    """Softmax attention: query (B, N, C), key and value (B, L, C) -> (B, N, C).

    bias: (B, 1, 1, L), added to the logits, or None.  options: what a host passed along with the caption, or None.
    """

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, heads: int, *, bias: Tensor | None, options: Any
    ) -> Tensor: ...


def is_replaced(layer: nn.Module) -> bool:
    """Has an add-on put a function of its own in the place of a method? Seamless tiling does it with convolutions."""
    return "forward" in layer.__dict__ or "_conv_forward" in layer.__dict__  # PyTorch 2.6 can trace no more than this


@dataclass(frozen=True, kw_only=True)
class Kit:
    """Makes the layers of a network. device, dtype: of all its weights; None for what the layer classes choose.

    kernels: the operations between the layers.
    """

    layers: Layers = nn
    attention: Attention = softmax_attention
    kernels: Kernels = CHOSEN
    device: str | torch.device | None = "cpu"
    dtype: torch.dtype | None = torch.float32

    def __deepcopy__(self, memo: dict[int, Any]) -> Kit:
        return self  # copies of a network are made of the same

    def __reduce__(self) -> Any:
        if self.layers is not nn:
            return super().__reduce__()
        return _plain_kit, (self.attention, self.kernels is PLAIN, self.device, self.dtype)  # modules have no pickle

    def linear(self, in_features: int, out_features: int, *, bias: bool = True) -> nn.Linear:
        return self.layers.Linear(in_features, out_features, bias=bias, device=self.device, dtype=self.dtype)

    def conv2d(self, in_channels: int, out_channels: int, kernel: int, **options: Any) -> nn.Conv2d:
        """options: stride, padding, groups and bias as of `torch.nn.Conv2d`."""
        return self.layers.Conv2d(in_channels, out_channels, kernel, device=self.device, dtype=self.dtype, **options)

    def depthwise(self, channels: int, kernel: int, *, bias: bool = True) -> nn.Conv2d:
        """A convolution of every channel on its own that keeps the size."""
        return self.conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=bias)

    def gated_depthwise(self, layer: nn.Module, maps: Tensor, *, in_one_piece: bool = False) -> Tensor:
        """SiLU, the depthwise convolution `layer` and the gate: (B, 2 F, H, W) -> (B, F, H, W). May overwrite maps.

        in_one_piece: see `kernels.gated_depthwise.gated`.
        """
        if not self.is_bare(layer, maps):
            return gated(layer, maps, in_one_piece=in_one_piece)
        return self.kernels.gated_depthwise(maps, layer.weight, layer.bias, in_one_piece)

    def is_ours(self, layer: nn.Module) -> bool:
        """Is calling the layer its own work alone? Add-ons change the class of a layer, replace its forward or hook it,
        and must be heard.
        """
        hooks = layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks
        other = hooks or is_replaced(layer) or getattr(layer, "padding_mode", "zeros") != "zeros"
        return type(layer) in (self.layers.Linear, self.layers.Conv2d) and not other

    def is_bare(self, layer: Any, like: Tensor) -> bool:
        """May an operation on `like` use the weights that a layer holds and do its work? They may be of another type,
        or elsewhere.
        """
        weight = layer.weight if self.is_ours(layer) else None  # None too where a host holds it elsewhere
        return weight is not None and weight.dtype == like.dtype and weight.device == like.device

    def rms_norm(self, size: int, *, eps: float) -> nn.RMSNorm:
        return self.layers.RMSNorm(size, eps=eps, device=self.device, dtype=self.dtype)

    def zeros(self, *shape: int) -> nn.Parameter:
        return nn.Parameter(torch.zeros(shape, device=self.device, dtype=self.dtype))

    def ones(self, *shape: int) -> nn.Parameter:
        return nn.Parameter(torch.ones(shape, device=self.device, dtype=self.dtype))


def _plain_kit(attention: Attention, plain: bool, device: str | torch.device | None, dtype: torch.dtype | None) -> Kit:
    return Kit(attention=attention, kernels=PLAIN if plain else CHOSEN, device=device, dtype=dtype)
