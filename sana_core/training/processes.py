"""The processes of a training: this one alone, or several that `accelerate launch` or `torchrun` started."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..device import pick_device
from ..errors import InputError

Piece = TypeVar("Piece")


class Processes:
    """One process, for which PyTorch is enough.

    device: where it computes. index, count: which of how many it is.
    """

    index, count = 0, 1

    def __init__(self, device: torch.device) -> None:
        self.device = device

    @property
    def is_main(self) -> bool:
        """Does this process write files and say things?"""
        return self.index == 0

    def prepared(self, objective: nn.Module) -> nn.Module:
        """What is called in place of `objective`, so that the gradients of all processes are averaged."""
        return objective

    def summing(self, objective: nn.Module, last: bool) -> AbstractContextManager[Any]:
        """Around a piece of a step that is not the `last`: its gradients need not be exchanged yet."""
        return nullcontext()

    def mean(self, values: Tensor) -> Tensor:
        """Of all processes."""
        return values

    def wait(self) -> None:
        """Until all processes are here."""

    def own(self, pieces: Sequence[Piece]) -> Sequence[Piece]:
        """This process's share of the pieces of a step."""
        if len(pieces) % self.count:
            raise InputError(
                f"a step of {len(pieces)} pieces on {self.count} processes: the batch has to be a multiple of "
                "processes x pictures at once"
            )
        share = len(pieces) // self.count
        return pieces[self.index * share : (self.index + 1) * share]

    def end(self) -> None:
        """Say goodbye to the other processes."""


class LaunchedProcesses(Processes):
    """Several processes through accelerate, which finds their devices and wraps the objective for them (DDP)."""

    def __init__(self, device: str | None, *, shard: bool) -> None:
        from accelerate import Accelerator

        self.accelerator = Accelerator(cpu=device == "cpu")
        super().__init__(self.accelerator.device)
        self.index, self.count = self.accelerator.process_index, self.accelerator.num_processes
        self.shard = shard

    def prepared(self, objective: nn.Module) -> nn.Module:
        return objective if self.shard else self.accelerator.prepare_model(objective)

    def summing(self, objective: nn.Module, last: bool) -> AbstractContextManager[Any]:
        return nullcontext() if last or self.shard else self.accelerator.no_sync(objective)

    def mean(self, values: Tensor) -> Tensor:
        found = self.accelerator.reduce(values, reduction="mean")
        assert isinstance(found, Tensor)
        return found

    def wait(self) -> None:
        self.accelerator.wait_for_everyone()

    def end(self) -> None:
        self.wait()  # who leaves first would break the others' last exchange
        self.accelerator.end_training()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def find_processes(device: str | None = None, *, shard: bool = False) -> Processes:
    """This process and its companions.

    device: "cpu", "cuda" ...; None takes a GPU if there is one. shard: divide weights, gradients and optimizer over the
    processes (FSDP2) where there are several. Raises InputError if accelerate is needed and missing.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes(pick_device(device))
    try:
        import accelerate  # noqa: F401
    except ImportError as error:
        raise InputError("a training on several processes needs accelerate: pip install accelerate") from error
    return LaunchedProcesses(device, shard=shard)


def shard(network: nn.Module, blocks: Sequence[nn.Module]) -> None:
    """Divide a network over all processes, block by block, by PyTorch's FSDP2. accelerate's own way into it does not
    exist on CPUs, where it is tested.
    """
    from torch.distributed.fsdp import fully_shard

    for block in (*blocks, network):
        fully_shard(block)


def whole(tensor: Tensor) -> Tensor:
    """A tensor, gathered from all processes where it is sharded, on the CPU. All processes have to call it."""
    gathered = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor  # type: ignore[operator]
    return gathered.detach().cpu()


def like(tensor: Tensor, sharded: Tensor) -> Tensor:
    """A whole tensor as `sharded` is: on its device, and sharded the same way."""
    if not hasattr(sharded, "full_tensor"):
        return tensor.to(sharded.device)
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(sharded.device), sharded.device_mesh, sharded.placements)  # type: ignore[attr-defined]
