"""Counts the bytes of live tensors, on the CPU or on the meta device, where tensors of real size cost nothing."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):
    """Live and peak bytes of the tensors made inside the `with`, each storage once, so that views are free.

    extra: bytes to add, such as `weight_bytes(model)`. The peak is what a caching allocator must hold at least:
    rounding, fragmentation and the workspace of convolution and matrix kernels are not seen. Softmax attention counts
    its result alone, as with every fused GPU kernel.
    """

    def __init__(self, extra: int = 0) -> None:
        super().__init__()
        self.extra = extra
        self._sizes: dict[int, int] = {}  # address of a live storage -> bytes
        self._live = self._peak = 0
        self._attention = _FusedAttention()

    @property
    def live_bytes(self) -> int:
        return self._live + self.extra

    @property
    def peak_bytes(self) -> int:
        return self._peak + self.extra

    def __enter__(self) -> LiveMemory:
        self._attention.__enter__()
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._attention.__exit__(kind, error, trace)

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = {storage._cdata for storage in _storages((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for storage in _storages(result):
            if storage._cdata in self._sizes or storage._cdata not in given:
                self._count(storage)
        self._peak = max(self._peak, self._live)
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        """A new storage, or a known one that may have been resized."""
        address, size = storage._cdata, storage.nbytes()
        if address not in self._sizes:
            weakref.finalize(storage, self._forget, address).atexit = False
        self._live += size - self._sizes.get(address, 0)
        self._sizes[address] = size

    def _forget(self, address: int) -> None:
        self._live -= self._sizes.pop(address)


class _FusedAttention(TorchFunctionMode):
    """Softmax attention on meta as one operation: PyTorch takes it apart there and holds the matrix that GPU kernels
    never hold.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.scaled_dot_product_attention and args[0].is_meta:
            return _MetaAttention.apply(*args[:3])
        return func(*args, **(kwargs or {}))


class _MetaAttention(torch.autograd.Function):
    """Shapes alone. For the gradient a fused kernel keeps its inputs and its result."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        result = query.new_empty((*query.shape[:-1], value.shape[-1]))
        ctx.save_for_backward(query, key, value, result)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors[:3])


def weight_bytes(module: nn.Module) -> int:
    """Bytes of a module's parameters and buffers, tied ones once."""
    tensors = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def _storages(tree: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
