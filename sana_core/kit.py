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
from .kernels.linear_attention import linear_attention


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


class LinearAttention(Protocol):
    """Linear attention: query, key, value (B, heads, N, D) -> (B, heads, N, D), in float32 or wider."""

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, *, eps: float) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class Kit:
    """Makes the layers of a network. device, dtype: of all its weights; None for what the layer classes choose."""

    layers: Layers = nn
    attention: Attention = softmax_attention
    linear_attention: LinearAttention = linear_attention
    device: str | torch.device | None = "cpu"
    dtype: torch.dtype | None = torch.float32

    def linear(self, in_features: int, out_features: int, *, bias: bool = True) -> nn.Linear:
        return self.layers.Linear(in_features, out_features, bias=bias, device=self.device, dtype=self.dtype)

    def conv2d(self, in_channels: int, out_channels: int, kernel: int, **options: Any) -> nn.Conv2d:
        """options: stride, padding, groups and bias as of `torch.nn.Conv2d`."""
        return self.layers.Conv2d(in_channels, out_channels, kernel, device=self.device, dtype=self.dtype, **options)

    def depthwise(self, channels: int, kernel: int, *, bias: bool = True) -> nn.Conv2d:
        """A convolution of every channel on its own that keeps the size."""
        return self.conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=bias)

    def rms_norm(self, size: int, *, eps: float) -> nn.RMSNorm:
        return self.layers.RMSNorm(size, eps=eps, device=self.device, dtype=self.dtype)

    def zeros(self, *shape: int) -> nn.Parameter:
        return nn.Parameter(torch.zeros(shape, device=self.device, dtype=self.dtype))

    def ones(self, *shape: int) -> nn.Parameter:
        return nn.Parameter(torch.ones(shape, device=self.device, dtype=self.dtype))
