"""A transformer for training whose weights stay with a host, which lends each for as long as it is used.

The host may keep them in few bits, in the main memory, or add LoRAs at use. Nothing of the host's own network changes:
adapters and gradient checkpointing are put on this one.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input

from ..config import TransformerConfig
from ..kit import Kit
from ..quantised.layers import replace_layer
from ..transformer.model import SanaTransformer

Lend = Callable[[torch.dtype], AbstractContextManager[Tensor]]
"""The weight of a layer as numbers of that type, on the device that computes, until the block ends."""


def borrowed_transformer(
    config: TransformerConfig, lend: Callable[[str], Lend], small: Callable[[str], Tensor], device: torch.device
) -> SanaTransformer:
    """A network without large weights.

    lend: by the name of a linear layer or a convolution. small: a copy of any other parameter by its name, biases
    included. device: where it computes.
    """
    network = SanaTransformer(config, Kit(device="meta"))
    for name, layer in list(network.named_modules()):
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            bias = None if layer.bias is None else small(f"{name}.bias")
            given = bias, lend(name), device
            own = BorrowedLinear(layer, *given) if isinstance(layer, nn.Linear) else BorrowedConv(layer, *given)
            replace_layer(network, name, own)
    for name, parameter in list(network.named_parameters()):
        if parameter.is_meta:
            module, _, own = name.rpartition(".")
            setattr(network.get_submodule(module), own, nn.Parameter(small(name), requires_grad=False))
    return network


class Borrowed(nn.Module):
    """A frozen layer with a weight that is lent. Its bias is its own. Its gradient borrows the weight once more:
    nothing is kept until then.
    """

    def __init__(self, like: nn.Linear | nn.Conv2d, bias: Tensor | None, lend: Lend, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self.shape = tuple(like.weight.shape)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.lend = lend

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        y = cast(Tensor, _Product.apply(x, self))
        return y if self.bias is None else y + self.beside(self.bias.to(y.dtype))

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        raise NotImplementedError

    def gradient(self, of: Tensor, weight: Tensor, shape: torch.Size) -> Tensor:
        """Of the product with respect to an input of `shape`, from the gradient `of` its output."""
        raise NotImplementedError

    def beside(self, bias: Tensor) -> Tensor:
        """The bias in the shape in which it is added."""
        return bias


class BorrowedLinear(Borrowed):
    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.linear(x, weight)

    def gradient(self, of: Tensor, weight: Tensor, shape: torch.Size) -> Tensor:
        return of @ weight

    def plain(self, dtype: torch.dtype) -> nn.Linear:
        """The same layer with a copy of its weight in `dtype`."""
        rows, columns = self.shape
        layer = nn.Linear(columns, rows, bias=self.bias is not None, device="meta")
        with self.lend(dtype) as weight:
            layer.weight = nn.Parameter(weight.clone(), requires_grad=False)
        layer.register_parameter("bias", self.bias)
        return layer


class BorrowedConv(Borrowed):
    def __init__(self, like: nn.Conv2d, bias: Tensor | None, lend: Lend, device: torch.device) -> None:
        super().__init__(like, bias, lend, device)
        self.options = {"stride": like.stride, "padding": like.padding, "groups": like.groups}

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(x, weight, **cast(Any, self.options))

    def gradient(self, of: Tensor, weight: Tensor, shape: torch.Size) -> Tensor:
        return conv2d_input(shape, weight, of, **cast(Any, self.options))

    def beside(self, bias: Tensor) -> Tensor:
        return bias[:, None, None]


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Borrowed) -> Tensor:
        ctx.layer, ctx.shape = layer, x.shape
        with layer.lend(x.dtype) as weight:
            return layer.product(x, weight)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (of,) = grad_outputs
        with ctx.layer.lend(of.dtype) as weight:
            return ctx.layer.gradient(of, weight, ctx.shape), None
