"""Layers whose weights stay in few bits in memory and become numbers at each use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import kitchen
from .dequantise import dequantise
from .formats import MARK, Format, Shape
from .pieces import dequantised_pieces


class QuantisedWeight(nn.Module):
    """A weight (N, K) in one of `FORMATS`. Its tensors are buffers under their names in the file.

    A conversion to another number type leaves them as they are: they are no numbers by themselves.
    """

    def __init__(self, form: Format, shape: Shape, parts: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.form, self.shape = form, shape
        for name, tensor in parts.items():
            self.register_buffer(name, tensor)

    @property
    def parts(self) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in self._buffers.items() if tensor is not None}

    def numbers(self, dtype: torch.dtype) -> Tensor:
        """The weight (N, K) in `dtype`, rounded once from float32. Large ones come piece by piece, to save memory."""
        whole = None
        for start, numbers in dequantised_pieces(self.form, self.parts, self.shape):
            if len(numbers) == self.shape[0]:
                return numbers.to(dtype)
            if whole is None:
                whole = numbers.new_empty(self.shape, dtype=dtype)
            whole[start : start + len(numbers)] = numbers
        assert whole is not None
        return whole

    def rows(self, indices: Tensor, dtype: torch.dtype) -> Tensor:
        """Some rows of the weight, (..., K), of a format whose rows stand for themselves."""
        flat, total = indices.flatten(), self.shape[0]
        own = {name: part[flat] if part.shape[:1] == (total,) else part for name, part in self.parts.items()}
        found = dequantise(self.form.name, own, self.form.settings, (len(flat), self.shape[1]))
        return found.to(dtype).unflatten(0, indices.shape)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QuantisedWeight:
        for name, tensor in self.parts.items():
            found = fn(tensor)
            self._buffers[name] = found if found.dtype == tensor.dtype else tensor.to(found.device)
        return self


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: QuantisedWeight) -> Tensor:
        ctx.weight = weight
        return F.linear(x, weight.numbers(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (gradient,) = grad_outputs
        return gradient @ ctx.weight.numbers(gradient.dtype), None


def product(x: Tensor, weight: QuantisedWeight) -> Tensor:
    """x @ weight.T, whose gradient for x makes the numbers of the weight once more: nothing is kept until then."""
    if torch.is_autocast_enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    return cast(Tensor, _Product.apply(x, weight))


class QuantisedLinear(nn.Module):
    """x @ weight.T + bias, (..., K) -> (..., N).

    `beside` are products of low rank that are added, up (N, r) and down (r, K): LoRAs.
    """

    def __init__(self, weight: QuantisedWeight, bias: Tensor | None) -> None:
        super().__init__()
        self.quantised = weight
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.beside = nn.ParameterList()

    def forward(self, x: Tensor) -> Tensor:
        y = kitchen.linear(x, self.quantised, self.bias)
        if y is None and torch.is_grad_enabled() and x.requires_grad:
            y = product(x, self.quantised)
            y = y if self.bias is None else y + self.bias.to(y.dtype)
        elif y is None:
            y = F.linear(x, self.quantised.numbers(x.dtype), self.bias)
        for up, down in zip(self.beside[::2], self.beside[1::2]):
            y = y + (x @ down.to(x.dtype).T) @ up.to(x.dtype).T
        return y

    def add_beside(self, up: Tensor, down: Tensor) -> None:
        """Add the product of up (N, r) and down (r, K) to the layer from now on."""
        home = next(self.quantised.buffers()).device
        further = [nn.Parameter(factor.to(home), requires_grad=False) for factor in (up, down)]
        self.beside = nn.ParameterList([*self.beside, *further])  # both or, where memory runs out, none

    def plain(self, dtype: torch.dtype) -> nn.Linear:
        """The same layer with its weight in `dtype`."""
        weight = self.quantised.numbers(torch.float32)
        for up, down in zip(self.beside[::2], self.beside[1::2]):
            weight = weight + up.float() @ down.float()
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=self.bias is not None, device="meta")
        layer.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
        layer.register_parameter("bias", self.bias)
        return layer


class QuantisedEmbedding(nn.Module):
    """Rows of a quantised table, through the embedding that stood here, which may scale them.

    dtype: of what is read.
    """

    def __init__(self, weight: QuantisedWeight, embedding: nn.Embedding, dtype: torch.dtype) -> None:
        super().__init__()
        self.quantised, self.embedding = weight, embedding
        device = next(weight.buffers()).device
        embedding.weight = nn.Parameter(torch.empty(0, dtype=dtype, device=device), requires_grad=False)

    @property
    def weight(self) -> Tensor:
        """Nothing, on the device of the table and in the type of what is read from it."""
        return self.embedding.weight

    def forward(self, indices: Tensor) -> Tensor:
        rows = self.quantised.rows(indices.flatten(), self.weight.dtype)
        places = torch.arange(len(rows), device=indices.device).view_as(indices)
        return torch.func.functional_call(self.embedding, {"weight": rows}, (places,))


def hold_quantised(network: nn.Module, layers: Mapping[str, Format], tensors: dict[str, Tensor]) -> None:
    """Put layers that hold their weights in few bits in the place of a network's own.

    layers: their formats by name, see `weights.quantised_layers`.  tensors: of the whole network, which fit it by
    `check_fit`; those of the layers are taken out. What is read from a quantised table has the type of the first plain
    tensor with fractions.
    """
    plain = (tensor.dtype for key, tensor in tensors.items() if key.rpartition(".")[0] not in layers)
    dtype = next((found for found in plain if found.is_floating_point), torch.float32)
    for name, form in layers.items():
        old: Any = network.get_submodule(name)
        tensors.pop(f"{name}.{MARK}", None)
        sides = [side for side in ("weight", *form.required, *(form.optional or ())) if f"{name}.{side}" in tensors]
        weight = QuantisedWeight(form, tuple(old.weight.shape), {side: tensors.pop(f"{name}.{side}") for side in sides})
        if isinstance(old, nn.Embedding):
            replace_layer(network, name, QuantisedEmbedding(weight, old, dtype))
        else:
            replace_layer(network, name, QuantisedLinear(weight, tensors.pop(f"{name}.bias", None)))


def replace_layer(network: nn.Module, name: str, layer: nn.Module) -> None:
    """Put a layer in the place of the one of this name."""
    parent, _, leaf = name.rpartition(".")
    setattr(network.get_submodule(parent), leaf, layer)
