"""Write a .safetensors file tensor by tensor, so that one tensor at a time is in memory.

The header stands before the tensors, but is known only after them. So room is kept for it, and what is left of the room
is filled with spaces, which the format allows. The header is written last. Before that its length is 0, which no reader
takes. Format: https://huggingface.co/docs/safetensors.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from .safetensors_file import DTYPES

NAMES = {dtype: name for name, dtype in DTYPES.items()}
ALIGNMENT = 8  # bytes, the largest size of a number
ENTRY = 200  # bytes of a tensor in the header, at most, besides its name
PIECE = 1 << 22  # numbers that are converted and written at once


class SafetensorsWriter:
    """A file that grows by `add`. Its header is written at the end of the `with` block, unless an error ends it.

    A tensor whose bytes are no multiple of 8 is kept back to the end, so that all others lie at multiples of 8, and it
    at a multiple of the size of its numbers. Raises OSError.
    """

    def __init__(self, path: Path, *, tensors: int, metadata: Mapping[str, str] | None = None, name: int = 200) -> None:
        """tensors: the most that will be added. name: the most characters of a name. They tell how much room the header
        needs.
        """
        self._metadata = {"format": "pt", **(metadata or {})}
        self._entries: dict[str, dict] = {}
        self._kept: dict[str, tuple[torch.dtype, list[int], bytes]] = {}
        self._size = 0  # bytes of the tensors in the file
        room = len(_json({"__metadata__": self._metadata})) + tensors * (name + ENTRY)
        self._room = -(-room // ALIGNMENT) * ALIGNMENT
        self._file = path.open("wb")
        self._file.write(bytes(8) + b" " * self._room)

    def add(self, name: str, tensor: Tensor, dtype: torch.dtype | None = None) -> int:
        """Append a tensor, in `dtype` if it is given. Returns its bytes in the file. Raises ValueError for a name that
        is there already.
        """
        if name in self._entries or name in self._kept:
            raise ValueError(f"{name} is written twice")
        dtype = dtype or tensor.dtype
        size = tensor.numel() * dtype.itemsize
        if size % ALIGNMENT:
            self._kept[name] = dtype, list(tensor.shape), b"".join(_pieces(tensor, dtype))
        else:
            self._write(name, dtype, list(tensor.shape), _pieces(tensor, dtype))
        return size

    def __enter__(self) -> SafetensorsWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._file:
            if kind is None:
                self._finish()

    def _write(self, name: str, dtype: torch.dtype, shape: list[int], pieces: Iterable[Any]) -> None:
        start = self._size
        for piece in pieces:
            self._file.write(piece)
            self._size += len(piece)
        offsets = [start, self._size]
        self._entries[name] = {
            "dtype": NAMES[str(dtype).removeprefix("torch.")],
            "shape": shape,
            "data_offsets": offsets,
        }

    def _finish(self) -> None:
        for name, (dtype, shape, content) in sorted(self._kept.items(), key=lambda item: -item[1][0].itemsize):
            self._write(name, dtype, shape, [content])
        header = _json({"__metadata__": self._metadata, **self._entries})
        if len(header) > self._room:
            raise ValueError(f"the header has {len(header)} bytes, room was kept for {self._room}")
        self._file.seek(0)
        self._file.write(self._room.to_bytes(8, "little") + header)


def _pieces(tensor: Tensor, dtype: torch.dtype) -> Iterator[Any]:
    """The bytes of a tensor in `dtype`, some after the other."""
    flat = tensor.detach().reshape(-1)
    for piece in flat.split(PIECE) if len(flat) else ():
        yield piece.to(dtype).contiguous().cpu().view(torch.uint8).numpy().data


def _json(value: Mapping) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
