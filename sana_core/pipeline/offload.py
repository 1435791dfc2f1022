"""Networks that live on the CPU and take turns on a device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def on_device(device: torch.device, *networks: nn.Module) -> Iterator[None]:
    """Copy the weights of `networks` to `device` for the block.

    The originals stay on the CPU and are put back afterwards, so nothing is copied back: do not change weights inside
    the block. Afterwards the device's memory is free, for other programs too.
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
