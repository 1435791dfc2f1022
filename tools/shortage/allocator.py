"""An allocator that has no memory left at one moment: which of the allocations of a job fails is chosen.

It sees every operation of PyTorch on the CPU that makes new memory, factory functions included, in the thread that
entered it. What is not seen: memory inside an operation, and that of other libraries.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CPU_WORDS = "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to"
ERRORS: tuple[Callable[[], Exception], ...] = (  # what the allocators of CUDA, of the CPU and of Python raise
    lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB (simulated)"),
    lambda: RuntimeError(f"{CPU_WORDS} allocate 2147483648 bytes (simulated)"),
    lambda: MemoryError("simulated"),
)


class Shortage(TorchDispatchMode):
    """Raises `error` in place of the result of allocation number `fails`, counted from 1; 0: counts alone.

    lasts: all later ones fail too, as where nothing is given back.
    """

    def __init__(self, fails: int = 0, error: Callable[[], Exception] = ERRORS[0], *, lasts: bool = False) -> None:
        super().__init__()
        self.fails, self.error, self.lasts = fails, error, lasts
        self.count = self.raised = 0
        self._made: list[StorageWeakRef] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        new = _storages(result)
        if new and not new.keys() <= _storages((args, kwargs)).keys():
            self.count += 1
            if self.fails and (self.count == self.fails or (self.lasts and self.count > self.fails)):
                self.raised += 1
                raise self.error()
            self._made += [StorageWeakRef(storage) for storage in new.values()]
        return result

    def held(self) -> int:
        """How many of the pieces of memory that were made are not given back."""
        return sum(not made.expired() for made in self._made)


def _storages(values: object) -> dict[int, torch.UntypedStorage]:
    """The memory of all tensors on the CPU by its address."""
    leaves = [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]
    real = [leaf for leaf in leaves if leaf.device.type == "cpu" and not isinstance(leaf, FakeTensor)]
    storages = [leaf.untyped_storage() for leaf in real if leaf.layout == torch.strided]
    return {storage.data_ptr(): storage for storage in storages if storage.nbytes()}
