"""The header of a GGUF file: what it says of the model, and where each tensor lies.

All numbers are little-endian. The header is the letters GGUF, the version, how many tensors and how many entries there
are; then the entries, each a name, a type and a value; then for each tensor its name, its sizes with the innermost
first, its type and its offset; then padding. Nothing in it is trusted: every count and length is compared with the
bytes that are there before anything is made of it. Source: docs/gguf.md of ggml.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import CheckpointError

MAGIC = b"GGUF"
VERSIONS = (2, 3)  # the same but for big-endian files, which are refused
ALIGNMENT = 32  # of tensors, where the file states none
ALIGNMENT_KEY = "general.alignment"
MOST_DIMENSIONS = 8  # ggml itself has four
DEEPEST = 4  # arrays in arrays
STRING, ARRAY, BOOL = 8, 9, 7
NUMBERS = {
    0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "|b1", 10: "<u8", 11: "<i8", 12: "<f8",
}  # fmt: skip
# Types of tensors: ggml's number of a type -> name, numbers of a block, bytes of a block.
TYPES: dict[int, tuple[str, int, int]] = {
    0: ("f32", 1, 4), 1: ("f16", 1, 2), 2: ("q4_0", 32, 18), 3: ("q4_1", 32, 20), 6: ("q5_0", 32, 22),
    7: ("q5_1", 32, 24), 8: ("q8_0", 32, 34), 9: ("q8_1", 32, 40), 10: ("q2_k", 256, 84), 11: ("q3_k", 256, 110),
    12: ("q4_k", 256, 144), 13: ("q5_k", 256, 176), 14: ("q6_k", 256, 210), 15: ("q8_k", 256, 292),
    16: ("iq2_xxs", 256, 66), 17: ("iq2_xs", 256, 74), 18: ("iq3_xxs", 256, 98), 19: ("iq1_s", 256, 50),
    20: ("iq4_nl", 32, 18), 21: ("iq3_s", 256, 110), 22: ("iq2_s", 256, 82), 23: ("iq4_xs", 256, 136),
    24: ("i8", 1, 1), 25: ("i16", 1, 2), 26: ("i32", 1, 4), 27: ("i64", 1, 8), 28: ("f64", 1, 8),
    29: ("iq1_m", 256, 56), 30: ("bf16", 1, 2), 34: ("tq1_0", 256, 54), 35: ("tq2_0", 256, 66), 39: ("mxfp4", 32, 17),
    40: ("nvfp4", 64, 36), 41: ("q1_0", 128, 18),
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A tensor in the file: its name, its shape with the innermost size last, its type, and the bytes it takes, counted
    from the file's begin.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    begin: int
    size: int


@dataclass(frozen=True)
class Header:
    """fields: str, int, float, bool, lists of strings or NumPy arrays by name; a float32 is a NumPy float32."""

    fields: dict[str, Any]
    entries: dict[str, Entry]


def read_header(data: np.ndarray) -> Header:
    """The header of a file's bytes, uint8 (size,). Raises CheckpointError, without the file's name, for anything that
    is not a whole GGUF file.
    """
    cursor = _Cursor(data)
    if bytes(cursor.take(4)) != MAGIC:
        raise CheckpointError("it is not a GGUF file")
    version = cursor.number("<u4")
    if version not in VERSIONS:
        big = version & 0xFFFF == 0
        found = "big-endian, expected a little-endian one" if big else f"version {version}, expected 2 or 3"
        raise CheckpointError(f"it is a GGUF file of {found}: convert the model again")
    tensors, entries = cursor.count(24), cursor.count(13)  # the fewest bytes that each can take
    fields: dict[str, Any] = {}
    for _ in range(entries):
        name = cursor.text()
        if name in fields:
            raise cursor.damaged(f"the entry {name} is there twice")
        fields[name] = cursor.value(cursor.number("<u4"))
    found = [_tensor(cursor) for _ in range(tensors)]
    alignment = _alignment(fields)
    begin = -(-cursor.place // alignment) * alignment
    return Header(fields, _placed(cursor, found, begin, alignment))


def _tensor(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    """Name, shape, type and offset."""
    name, dimensions = cursor.text(), cursor.number("<u4")
    if dimensions > MOST_DIMENSIONS:
        raise cursor.damaged(f"the tensor {name} has {dimensions} dimensions")
    shape = tuple(cursor.number("<u8") for _ in range(dimensions))[::-1]
    return name, shape, cursor.number("<u4"), cursor.number("<u8")


def _placed(
    cursor: _Cursor, tensors: list[tuple[str, tuple[int, ...], int, int]], begin: int, alignment: int
) -> dict[str, Entry]:
    """The tensors by name, each checked to lie in the file."""
    placed: dict[str, Entry] = {}
    room = len(cursor.data)  # tensors do not overlap, so that a small file cannot stand for a large model
    for name, shape, number, offset in tensors:
        if name in placed:
            raise cursor.damaged(f"the tensor {name} is there twice")
        if number not in TYPES:
            raise CheckpointError(
                f"its tensor {name} has the unknown type {number}: use another quantisation of the model"
            )
        type, numbers, block = TYPES[number]
        if numbers > 1 and (not shape or shape[-1] % numbers):
            raise cursor.damaged(f"the tensor {name} of {type} has rows of {shape[-1] if shape else 1} numbers")
        size = math.prod(shape) // numbers * block
        room -= size
        if offset % alignment or begin + offset + size > len(cursor.data) or 0 in shape or room < 0:
            raise cursor.damaged(f"the tensor {name} of {size} bytes does not lie in it")
        placed[name] = Entry(name, shape, type, begin + offset, size)
    return placed


def _alignment(fields: dict[str, Any]) -> int:
    stated = fields.get(ALIGNMENT_KEY, ALIGNMENT)
    if not isinstance(stated, int) or isinstance(stated, bool) or stated not in (1 << power for power in range(20)):
        raise CheckpointError(f"it states {ALIGNMENT_KEY} = {stated!r}, expected a power of two: the file is damaged")
    return stated


class _Cursor:
    """Reads one value after the other and never beyond the end."""

    def __init__(self, data: np.ndarray) -> None:
        self.data = data
        self.place = 0

    def damaged(self, found: str) -> CheckpointError:
        return CheckpointError(f"it is not a whole GGUF file ({found}): it is truncated or damaged, download it again")

    def take(self, size: int) -> np.ndarray:
        if size > len(self.data) - self.place:
            raise self.damaged(f"{size} bytes expected at byte {self.place} of {len(self.data)}")
        self.place += size
        return self.data[self.place - size : self.place]

    def number(self, type: str) -> int:
        return int.from_bytes(bytes(self.take(np.dtype(type).itemsize)), "little")

    def count(self, least: int) -> int:
        """A count of things that take at least so many bytes each."""
        count = self.number("<u8")
        if count * least > len(self.data) - self.place:
            raise self.damaged(f"{count} items expected at byte {self.place} of {len(self.data)}")
        return count

    def text(self) -> str:
        return self._text(bytes(self.take(self.count(1))))

    def _text(self, content: bytes) -> str:
        try:
            return content.decode()
        except UnicodeDecodeError as error:
            raise self.damaged(f"a text before byte {self.place} is not UTF-8") from error

    def value(self, kind: int, depth: int = 0) -> Any:
        """A value of one of GGUF's types."""
        if kind == STRING:
            return self.text()
        if kind == ARRAY and depth < DEEPEST:
            return self._array(self.number("<u4"), depth + 1)
        if kind not in NUMBERS:
            raise self.damaged(f"a value of the unknown type {kind} before byte {self.place}")
        dtype = np.dtype(NUMBERS[kind])
        content = bytes(self.take(dtype.itemsize))
        if kind == BOOL:
            return content != b"\0"
        found = np.frombuffer(content, dtype)[0]
        return found if NUMBERS[kind] == "<f4" else found.item()

    def _array(self, kind: int, depth: int) -> Any:
        if kind == STRING:
            return self._texts(self.count(8))
        if kind in NUMBERS:
            dtype = np.dtype(NUMBERS[kind])
            count = self.count(dtype.itemsize)
            if kind == BOOL:
                return self.take(count) != 0
            return np.frombuffer(bytes(self.take(count * dtype.itemsize)), dtype)
        return [self.value(kind, depth) for _ in range(self.count(12))]

    def _texts(self, count: int) -> list[str]:
        """Strings in a row. A vocabulary has 256000, so this is done on plain bytes."""
        content, place, texts = self.data.data, self.place, []
        for _ in range(count):
            if place + 8 > len(content):
                raise self.damaged(f"a text expected at byte {place} of {len(content)}")
            (size,) = struct.unpack_from("<Q", content, place)
            if size > len(content) - place - 8:
                raise self.damaged(f"{size} bytes expected at byte {place + 8} of {len(content)}")
            self.place = place = place + 8 + size
            texts.append(self._text(bytes(content[place - size : place])))
        return texts
