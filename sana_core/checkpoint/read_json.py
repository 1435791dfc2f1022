"""Read JSON that someone else wrote: one clear error for whatever is wrong with it. Write it into a tensor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, SanaError

ALIGNMENT = 8  # bytes: what lies behind such a tensor in a file can be of any number type


def read_json(text: str | bytes, where: str, error: type[SanaError] = CheckpointError) -> Any:
    """The value of a JSON text. where: what to call it in messages. Bytes have to be UTF-8.

    Raises `error` for other encodings, for what is no JSON, and for values that are nested too deeply.
    """
    try:
        decoded = text.decode("utf-8-sig") if isinstance(text, bytes) else text.removeprefix("\ufeff")
        return json.loads(decoded)
    except RecursionError as found:
        raise error(f"{where} is JSON that is nested too deeply: expected a few levels") from found
    except ValueError as found:
        raise error(f"{where} is not readable JSON ({found}): download it again") from found


def read_object(text: str | bytes, where: str, error: type[SanaError] = CheckpointError) -> dict[str, Any]:
    """As `read_json`, of a JSON object. Raises `error` for any other value, too."""
    value = read_json(text, where, error)
    if not isinstance(value, dict):
        raise error(f"{where} holds a JSON {type(value).__name__}, expected an object")
    return value


def read_object_file(path: Path, error: type[SanaError] = CheckpointError) -> dict[str, Any]:
    """The JSON object in a file. Raises `error`, also for a file that cannot be opened."""
    try:
        content = path.read_bytes()
    except OSError as found:
        raise error(f"{path} cannot be read ({found.strerror or found}): download it again") from found
    return read_object(content, str(path), error)


def tensor_bytes(tensor: Tensor) -> bytes:
    """The bytes of a tensor of any type and shape, such as a text that a file keeps in one."""
    return tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def json_tensor(value: Any) -> Tensor:
    """JSON in UTF-8 as a tensor of bytes, uint8, with spaces at its end."""
    text = json.dumps(value).encode()
    text = text.ljust(-(-len(text) // ALIGNMENT) * ALIGNMENT)
    return torch.frombuffer(bytearray(text), dtype=torch.uint8)
