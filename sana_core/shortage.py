"""Is an error about too little memory? It is no fault of a file, nor of the program."""

from __future__ import annotations

import errno

import torch

PAGING_FILE = 1455  # Windows' number of an error: the paging file is too small
# PyTorch has a type of its own for CUDA alone: other errors say this on the CPU, MPS, in cuDNN, mmap, safetensors
SIGNS = (
    "out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory", "alloc_failed",
    f"os error {PAGING_FILE}",
)  # fmt: skip


def out_of_memory(error: BaseException) -> bool:
    """Does the error say that a device had no memory left?"""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno == errno.ENOMEM or getattr(error, "winerror", None) == PAGING_FILE
    return isinstance(error, (RuntimeError, OSError)) and any(sign in str(error).lower() for sign in SIGNS)
