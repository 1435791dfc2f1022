"""Write a GGUF file tensor by tensor, so that no more than a few rows are in memory beside the tensor that is given."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError
from ..quantised.gguf_blocks import dequantise, quantise, writable
from .gguf_header import ALIGNMENT, MAGIC, STRING, TYPES

VERSION = 3
UINT32 = 4
NUMBERS_OF_THE_FILE = ("general.alignment", "general.quantization_version")  # never those of another file
CHUNK = 1 << 19  # numbers that are quantised at once
FLOATS = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
NUMBER_OF_TYPE = {name: number for number, (name, _, _) in TYPES.items()}


@dataclass(frozen=True)
class Planned:
    """A tensor to come: its name, the shape of its numbers, and its type: f32, f16, bf16 or what `quantise` makes."""

    name: str
    shape: tuple[int, ...]
    type: str

    @property
    def size(self) -> int:
        """Its bytes in the file."""
        _, numbers, block = TYPES[NUMBER_OF_TYPE[self.type]]
        return math.prod(self.shape) // numbers * block


class GgufWriter:
    """A GGUF file in the making. Its header is written at once, from the plan; then tensors are added in that order.

    path: is overwritten; the caller sees to temporary names.  architecture: the entry `general.architecture`.
    metadata: more entries, of texts.  Raises InputError for a plan that cannot be and for a file that cannot be
    written. Use it as a context manager, or call `close` at the end.
    """

    def __init__(
        self, path: str | Path, architecture: str, plan: Sequence[Planned], metadata: Mapping[str, str]
    ) -> None:
        self.path = Path(path)
        self.plan = tuple(plan)
        self.done = 0
        _check_plan(self.plan)
        own = ("general.architecture", *NUMBERS_OF_THE_FILE)
        fields = {"general.architecture": architecture} | {k: v for k, v in metadata.items() if k not in own}
        with self._writing():
            self.file = self.path.open("wb")
        try:
            self._write(_header(self.plan, fields))
            self._pad()
        except BaseException:
            self.file.close()
            raise

    def add(self, name: str, weight: Tensor) -> Tensor:
        """Write the next tensor of the plan; the numbers that will be read back, float32, on the CPU.

        weight: of the planned shape, on any device. Raises InputError if it is not the next one. `chunks` does the same
        in less memory.
        """
        read_back = torch.empty(weight.shape, dtype=torch.float32)
        rows = read_back.view(-1, _width(weight.shape))
        for place, numbers in self.chunks(name, weight):
            rows[place] = numbers.cpu()
        return read_back

    def chunks(self, name: str, weight: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """As `add`, a few rows after the other: which rows of (-1, K) they are, and the numbers that will be read back.

        The tensor is written when all of them have been taken.
        """
        planned = self._next(name, weight)
        rows = weight.detach().reshape(-1, _width(weight.shape))
        step = max(1, CHUNK // rows.shape[1])
        for begin in range(0, rows.shape[0], step):
            place = slice(begin, begin + step)
            if planned.type in FLOATS:
                packed = rows[place].to(FLOATS[planned.type])
                numbers = packed.float()
            else:
                packed = quantise(rows[place].float(), planned.type)
                numbers = dequantise(packed, planned.type)
            self._write(packed.contiguous().cpu().view(torch.uint8).numpy().data)
            yield place, numbers
        self._pad()
        self.done += 1

    def close(self) -> None:
        """End the file. Raises InputError if tensors of the plan are missing."""
        with self._writing():
            self.file.close()
        if self.done < len(self.plan):
            raise InputError(f"{self.path}: {self.plan[self.done].name} of the plan was not added")

    def __enter__(self) -> GgufWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.file.close()

    def _next(self, name: str, weight: Tensor) -> Planned:
        planned = self.plan[self.done] if self.done < len(self.plan) else None
        if planned is None or (planned.name, planned.shape) != (name, tuple(weight.shape)):
            expected = f"{planned.name} {planned.shape}" if planned else "no more tensors"
            raise InputError(f"{self.path}: got {name} {tuple(weight.shape)}, expected {expected} by the plan")
        return planned

    def _write(self, content: bytes | memoryview) -> None:
        with self._writing():
            self.file.write(content)

    def _pad(self) -> None:
        with self._writing():
            self.file.write(bytes(-self.file.tell() % ALIGNMENT))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(f"{self.path} cannot be written ({error.strerror or error})") from error


def _check_plan(plan: Sequence[Planned]) -> None:
    allowed = (*FLOATS, *writable())
    names: set[str] = set()
    for tensor in plan:
        if tensor.type not in allowed:
            raise InputError(f"{tensor.name}: {tensor.type} cannot be written, choose one of {', '.join(allowed)}")
        numbers = TYPES[NUMBER_OF_TYPE[tensor.type]][1]
        if _width(tensor.shape) % numbers:
            raise InputError(f"{tensor.name} {tensor.shape} is not whole blocks of {tensor.type}: use f16 or bf16")
        if tensor.name in names:
            raise InputError(f"{tensor.name} is in the plan twice")
        names.add(tensor.name)


def _width(shape: Sequence[int]) -> int:
    return shape[-1] if shape else 1


def _header(plan: Sequence[Planned], fields: Mapping[str, str]) -> bytes:
    entries = [_text(name) + struct.pack("<I", STRING) + _text(value) for name, value in fields.items()]
    entries.append(_text("general.quantization_version") + struct.pack("<II", UINT32, 2))
    header = bytearray(MAGIC + struct.pack("<IQQ", VERSION, len(plan), len(entries)) + b"".join(entries))
    offset = 0
    for tensor in plan:
        sizes = tensor.shape[::-1]
        header += _text(tensor.name) + struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes)
        header += struct.pack("<IQ", NUMBER_OF_TYPE[tensor.type], offset)
        offset += -(-tensor.size // ALIGNMENT) * ALIGNMENT
    return bytes(header)


def _text(text: str) -> bytes:
    content = text.encode()
    return struct.pack("<Q", len(content)) + content
