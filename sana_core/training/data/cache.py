"""Tensors on disk, each in a file of its own that is whole or not there.

A name is a digest of everything that the tensor depends on. So nothing is ever out of date: what has changed has
another name. A file holds its own name and a checksum of its numbers; one that is damaged is not used.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ...checkpoint.new_file import new_file
from ...checkpoint.read_json import tensor_bytes
from ...errors import CheckpointError, InputError

TENSOR = "tensor"  # its key in a file


class TensorFiles:
    """A folder of tensors by keys, which are any JSON."""

    def __init__(self, folder: str | Path) -> None:
        """Raises InputError if the folder cannot be made."""
        self.folder = Path(folder)
        self._make(self.folder)

    def path(self, key: Any) -> Path:
        name = self._name(key)
        return self.folder / name[:2] / f"{name[2:]}.safetensors"

    def write(self, key: Any, tensor: Tensor) -> None:
        """Raises InputError if it cannot be written, such as on a full disk."""
        tensor = tensor.detach().cpu().contiguous().clone()
        path = self.path(key)
        self._make(path.parent)
        metadata = {"name": self._name(key), "checksum": _checksum(tensor)}
        with new_file(path, overwrite=True) as partial:
            save_file({TENSOR: tensor}, partial, metadata)

    def read(self, key: Any) -> Tensor:
        """Raises CheckpointError for a file that is missing or damaged."""
        path = self.path(key)
        if not path.is_file():
            raise CheckpointError(f"{path} is missing from the cache: start the training again, which makes it")
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                metadata = file.metadata() or {}
                tensor = file.get_tensor(TENSOR)
        except Exception as error:  # safetensors raises many types for damaged files
            raise _damaged(path) from error
        if metadata.get("name") != self._name(key) or metadata.get("checksum") != _checksum(tensor):
            raise _damaged(path)
        return tensor

    def has(self, key: Any) -> bool:
        """Is it there, and whole?"""
        try:
            self.read(key)
        except CheckpointError:
            return False
        return True

    @staticmethod
    def _name(key: Any) -> str:
        return hashlib.blake2b(json.dumps(key).encode(), digest_size=20).hexdigest()

    @staticmethod
    def _make(folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"the folder {folder} cannot be made ({error.strerror or error})") from error


def finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


def _checksum(tensor: Tensor) -> str:
    described = f"{tuple(tensor.shape)} {tensor.dtype}".encode()
    return hashlib.blake2b(described + tensor_bytes(tensor), digest_size=16).hexdigest()


def _damaged(path: Path) -> CheckpointError:
    return CheckpointError(f"{path} of the cache is damaged: start the training again, which makes it anew")
