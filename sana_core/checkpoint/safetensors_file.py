"""Read a .safetensors file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import CheckpointError
from ..quantised.formats import MARK
from ..shortage import out_of_memory
from .statements import CONFIG_KEY, saved_statement

# What the format calls number types, and PyTorch; an older PyTorch does not have all of them.
DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu", "F4": "float4_e2m1fn_x2", "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool", "C64": "complex64",
}  # fmt: skip
PACKED = {"F4": 2}  # numbers in one element of the tensor, along the last dimension
TEXTS = (CONFIG_KEY, MARK, "gemma_config")  # last parts of the keys of tensors that hold JSON


def read_safetensors(path: Path, meta: bool) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a file. meta: tensors on the meta device, except those that hold JSON.

    Raises CheckpointError for a damaged file and for number types that this PyTorch does not have.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = dict(file.metadata() or {})
            tensors = {key: _tensor(file, key, meta, path) for key in list(file.keys())}
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError, OverflowError, TypeError) as error:
        if isinstance(error, CheckpointError) or out_of_memory(error):
            raise
        _check_name(path)
        _check_types(path)
        raise CheckpointError(
            f"{path} is not a whole safetensors file ({error}): it is truncated or damaged, download it again"
        ) from error
    for key in [key for key in tensors if key.rpartition(".")[2] == CONFIG_KEY]:
        metadata.update(saved_statement(tensors.pop(key), f"{path}: the tensor {key}"))
    return tensors, metadata


def _tensor(file, key: str, meta: bool, path: Path) -> Tensor:
    entry = file.get_slice(key)
    name, shape = entry.get_dtype(), list(entry.get_shape())
    dtype = getattr(torch, DTYPES.get(name, ""), None)
    if dtype is None:
        raise _unknown(path, key, name)
    if not meta or key.rpartition(".")[2] in TEXTS:
        return file.get_tensor(key)
    if name in PACKED and shape:
        shape[-1] //= PACKED[name]
    return torch.empty(shape, dtype=dtype, device="meta")


def _check_name(path: Path) -> None:
    """Raise CheckpointError for a name that the safetensors library does not take."""
    try:
        os.fsencode(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} cannot be read: its name or its folder's is not UTF-8: rename it") from error


def _check_types(path: Path) -> None:
    """Raise CheckpointError for a file that the safetensors library refuses because of a number type alone."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(size, path.stat().st_size)))  # what is asked for is taken at once
        for key, entry in header.items():
            if key != "__metadata__" and entry["dtype"] not in DTYPES:
                raise _unknown(path, key, str(entry["dtype"]))
    except CheckpointError:
        raise
    except (OSError, KeyError, TypeError, AttributeError, RecursionError, ValueError):
        return


def _unknown(path: Path, key: str, name: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: its tensor {key} has the unknown number type {name}: use a newer PyTorch, or another file"
    )
