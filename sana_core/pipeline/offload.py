"""Networks that live on the CPU and take turns on a device."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import nn

_turns: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_taken = threading.Lock()


@contextmanager
def on_device(device: torch.device, *networks: nn.Module) -> Iterator[None]:
    """Copy the weights of `networks` to `device` for the block.

    The originals stay on the CPU and are put back afterwards, so nothing is copied back: do not change weights inside
    the block. Afterwards the device's memory is free, for other programs too. A network has one turn at a time: other
    threads wait for theirs.
    """
    with ExitStack() as turns:
        for network in sorted(networks, key=id):  # in one order, or two threads could wait for one another
            turns.enter_context(_turn_of(network))
        tensors = [tensor for network in networks for tensor in (*network.parameters(), *network.buffers())]
        homes = [(tensor, tensor.data) for tensor in tensors]
        try:
            for tensor, home in homes:
                tensor.data = home.to(device)
            yield
        finally:
            for tensor, home in homes:
                tensor.data = home
            if device.type == "cuda":
                torch.cuda.empty_cache()


def _turn_of(network: nn.Module) -> threading.RLock:
    with _taken:
        return _turns.setdefault(network, threading.RLock())
