"""GGUF files: a plain writer, and headers with other values, types, names and places."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from random import Random
from typing import Any

STRING, ARRAY = 8, 9
CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
ALIGNMENT = 32


@dataclass
class Parts:
    """fields: name, type and value; of an array the value is (type, items).  tensors: name, sizes innermost first,
    type, offset.
    """

    fields: list[tuple[str, int, Any]]
    tensors: list[tuple[str, list[int], int, int]]
    data: bytes


def packed(parts: Parts) -> bytes:
    out = b"GGUF" + struct.pack("<IQQ", 3, len(parts.tensors), len(parts.fields))
    for name, kind, value in parts.fields:
        out += _text(name) + struct.pack("<I", kind) + _value(kind, value)
    for name, shape, kind, offset in parts.tensors:
        out += _text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
    return out + b"\0" * (-len(out) % ALIGNMENT) + parts.data


def file_bytes(fields: list[tuple[str, int, Any]], tensors: dict[str, tuple[list[int], int, bytes]]) -> bytes:
    """tensors: sizes innermost first, type and bytes by name."""
    data, entries = b"", []
    for name, (shape, kind, content) in tensors.items():
        entries.append((name, shape, kind, len(data)))
        data += content + b"\0" * (-len(content) % ALIGNMENT)
    return packed(Parts(fields, entries, data))


def mutated_file(random: Random, content: bytes) -> bytes:
    parts = _read(content)
    sort = random.randrange(3)
    if sort == 0 and parts.fields:
        index = random.randrange(len(parts.fields))
        name, kind, value = parts.fields[index]
        parts.fields[index] = random.choice((_other_value, _other_value, _other_field))(random, name, kind, value)
    elif sort == 1:
        index = random.randrange(len(parts.tensors))
        parts.tensors[index] = _other_tensor(random, *parts.tensors[index])
    else:
        lists = [parts.fields, parts.tensors]
        chosen = random.choice([entries for entries in lists if entries])
        entry = random.choice(chosen)
        random.choice((chosen.remove, chosen.append))(entry)  # one fewer, or one twice
    return packed(parts)


def _other_field(random: Random, name: str, kind: int, value: Any) -> tuple[str, int, Any]:
    other = random.choice(("general.architecture", "general.alignment", "split.count", "comfy.gguf.orig_shape.x", "",
                           "tokenizer.ggml.scores", "x" * 100_000))  # fmt: skip
    return other, kind, value


def _other_value(random: Random, name: str, kind: int, value: Any) -> tuple[str, int, Any]:
    whole = (0, 1, 2, 3, 46, 2**8 - 1, 2**16 - 1, 2**31 - 1, 2**32 - 1, 2**63, 2**64 - 1)
    real = (math.nan, math.inf, -math.inf, 0.0, -1.0, 1e300, 2.5)
    if kind == ARRAY and random.random() < 0.6:
        inner, items = value
        sort = random.randrange(4)
        if sort == 0:
            return name, kind, (inner, items[: random.randrange(len(items) + 1)])
        if sort == 1:
            return name, kind, (inner, items + items)
        if sort == 2 and inner in CODES:
            doubles = [float(item) for item in items]
            doubles[random.randrange(len(doubles))] = random.choice(real)
            return name, kind, (12, doubles)
        items = list(items)
        place = random.randrange(len(items))
        items[place] = "x" * 1000 if inner == STRING else type(items[place])(0)
        return name, kind, (inner, items)
    other = random.choice((*CODES, STRING, ARRAY))
    if other == STRING:
        return name, other, random.choice(("", "gemma2", "llama", "x" * 10_000, "\0", "[" * 5000))
    if other == ARRAY:
        return name, other, random.choice(((4, []), (4, [1, 2]), (6, [math.nan]), (STRING, ["a", "b"]), (7, [True])))
    if other == 7:
        return name, other, True
    if CODES[other] in "fd":
        number = random.choice(real)
        return name, other, 1e38 if other != 12 and number == 1e300 else number
    size = struct.calcsize(CODES[other])
    return name, other, random.choice(whole) & ((1 << 8 * size - 1) - 1)


def _other_tensor(
    random: Random, name: str, shape: list[int], kind: int, offset: int
) -> tuple[str, list[int], int, int]:
    sort = random.randrange(5)
    sizes = (0, 1, 31, 32, 33, 256, 2**31, 2**32, 2**62, 2**63, 2**64 - 1)
    if sort == 0:
        shape = [*shape[:-1], random.choice(sizes)]
    elif sort == 1:
        shape = random.choice(([], shape[::-1], [*shape, 1], [1, *shape], [*shape, *[1] * 9], [2**32, 2**32, 0]))
    elif sort == 2:
        kind = random.choice((*range(43), 255, 2**32 - 1))
    elif sort == 3:
        offset = random.choice((*sizes, offset + 1, offset + 32))
    else:
        name = random.choice((name + "x", "", "token_embd.weight", "blk.9999999.attn_q.weight", name.upper(),
                              name.replace(".weight", ".comfy_quant"), name.removesuffix(".weight")))  # fmt: skip
    return name, shape, kind, offset


def _text(text: str) -> bytes:
    content = text.encode()
    return struct.pack("<Q", len(content)) + content


def _value(kind: int, value: Any) -> bytes:
    if kind == STRING:
        return _text(value)
    if kind == ARRAY:
        inner, items = value
        return struct.pack("<IQ", inner, len(items)) + b"".join(_value(inner, item) for item in items)
    return struct.pack(f"<{CODES[kind]}", value)


def _read(content: bytes) -> Parts:
    """The parts of a file that this writer has written."""
    place = 24
    _, tensors, fields = struct.unpack_from("<IQQ", content, 4)

    def take(code: str) -> Any:
        nonlocal place
        (value,) = struct.unpack_from(f"<{code}", content, place)
        place += struct.calcsize(f"<{code}")
        return value

    def text() -> str:
        nonlocal place
        size = take("Q")
        place += size
        return content[place - size : place].decode()

    def value(kind: int) -> Any:
        if kind == ARRAY:
            inner, count = take("I"), take("Q")
            if count > len(content):
                raise ValueError("damaged already")
            return inner, [value(inner) for _ in range(count)]
        return text() if kind == STRING else take(CODES[kind])

    if max(tensors, fields) > len(content):
        raise ValueError("damaged already")
    found = []
    for _ in range(fields):
        name, kind = text(), take("I")
        found.append((name, kind, value(kind)))
    entries = []
    for _ in range(tensors):
        name, dimensions = text(), take("I")
        if dimensions > 20:
            raise ValueError("damaged already")
        entries.append((name, [take("Q") for _ in range(dimensions)], take("I"), take("Q")))
    return Parts(found, entries, content[-(-place // ALIGNMENT) * ALIGNMENT :])
