"""Which weights a network or its files have, in a few letters."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn

SAMPLED = 256  # numbers of a tensor, and places in a file
SAMPLE = 1 << 16  # bytes of a file at each place


def fingerprint(network: nn.Module) -> str:
    """A digest of names, shapes, number types and evenly spaced numbers of all tensors: fast, and another one when a
    tensor is replaced. A number type is part of it, since it changes what the network computes; the device is not.
    """
    found = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(network.state_dict().items()):
        if isinstance(tensor, Tensor):
            found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            found.update(_sample(tensor.detach()))
        else:  # the extra state of a module
            found.update(f"{name} {tensor!r}\n".encode())
    return found.hexdigest()


def _sample(tensor: Tensor) -> bytes:
    flat = tensor.reshape(-1)
    count = flat.numel()
    if count > SAMPLED:
        places = torch.arange(SAMPLED, device=flat.device) * (count - 1) // (SAMPLED - 1)
        size = flat.element_size()
        flat = flat.view(torch.uint8).view(count, size)[places]  # as bytes: not every number type can be indexed
    return flat.contiguous().view(torch.uint8).cpu().numpy().tobytes()


def file_fingerprint(*paths: Path) -> str:
    """Of files, or of all files of folders: their sizes, and samples of what is in them."""
    digest = hashlib.blake2b(digest_size=8)
    for path in paths:
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        for file in files:
            _add(digest, file)
    return digest.hexdigest()


def _add(digest: hashlib.blake2b, path: Path) -> None:
    size = path.stat().st_size
    digest.update(size.to_bytes(8, "little"))
    with path.open("rb") as file:
        for start in range(0, size, max(SAMPLE, size // SAMPLED)):
            file.seek(start)
            digest.update(file.read(SAMPLE))
