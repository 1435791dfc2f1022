"""Networks that live on the CPU and take turns on a device."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def on_device(device: torch.device, *networks: nn.Module) -> Iterator[None]:
    """All weights of `networks` are on `device` for as long as this lasts, then where they were.

    Where they were they stay meanwhile, so that nothing is copied back: weights must not be changed during the turn.
    What the device held is free afterwards, for other programs too.
    """
    homes = [(tensor, tensor.data) for network in networks for tensor in (*network.parameters(), *network.buffers())]
    try:
        for tensor, home in homes:
            tensor.data = home.to(device)
        yield
    finally:
        for tensor, home in homes:
            tensor.data = home
        if device.type == "cuda":
            torch.cuda.empty_cache()


def peak_memory(device: torch.device) -> str:
    """The most memory this process has held, in words: what tensors held on a GPU, or all that was resident on the CPU."""
    if device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated(device) / 1e9:.2f} GB of tensors on {device}"
    if sys.platform == "win32":
        return "not known on Windows without a GPU"
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB on Linux
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9:.2f} GB of the whole process, resident in the CPU's memory"
