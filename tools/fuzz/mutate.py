"""Damage of every sort, chosen by the kind of a file: bytes, JSON, safetensors, GGUF, zip archives, PNG."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from random import Random

from . import gguf, tensors
from .json_values import mutated_json, mutated_lines

NUMBERS = (0, 1, 2, 7, 127, 128, 255, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
HEADER = 256  # bytes at the begin of a file, where lengths are


def mutated(random: Random, name: str, content: bytes) -> bytes:
    """The content of a file of this name, damaged. One time in five its kind is not looked at."""
    kind = next((kind for end, kind in KINDS.items() if name.endswith(end)), mutated_bytes)
    if random.random() < 0.2:
        kind = mutated_bytes
    try:
        return kind(random, content)
    except Exception:
        return mutated_bytes(random, content)  # damaged already, so that its kind cannot be read


def mutated_bytes(random: Random, content: bytes) -> bytes:
    found = bytearray(content)
    place = random.randrange(len(found) + 1)
    if random.random() < 0.5:
        place = min(place, random.randrange(HEADER))
    size = min(random.choice((1, 2, 4, 8, 16, 200)), len(found) - place)
    sort = random.randrange(7)
    if sort == 0:
        for _ in range(random.choice((1, 1, 2, 8))):
            if found:
                found[random.randrange(place, len(found)) if place < len(found) else 0] ^= 1 << random.randrange(8)
    elif sort == 1:
        del found[place:]
    elif sort == 2:
        found[place:place] = random.randbytes(random.choice((1, 4, 8, 100)))
    elif sort == 3:
        del found[place : place + size]
    elif sort == 4:
        found[place : place + size] = random.randbytes(size)
    elif sort == 5:  # a length
        width = random.choice((4, 8))
        found[place : place + width] = (random.choice(NUMBERS) & (1 << 8 * width) - 1).to_bytes(width, "little")
    else:
        found[place:place] = found[place : place + size] * random.choice((1, 3, 50))
    return bytes(found)


def mutated_zip(random: Random, content: bytes) -> bytes:
    """A PyTorch file: one member damaged, dropped, renamed or compressed, and the archive whole again."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = random.choice([*members, *(name for name in members if name.endswith("data.pkl"))])
    sort = random.randrange(6)
    if sort == 0:
        del members[name]
    elif sort == 1:
        members[random.choice((name.upper(), "x" + name, "../" + name, name * 2, "archive/constants.pkl"))] = (
            members.pop(name)
        )
    else:
        members[name] = mutated_bytes(random, members[name])
    compression = zipfile.ZIP_DEFLATED if random.random() < 0.1 else zipfile.ZIP_STORED
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    return out.getvalue()


def mutated_png(random: Random, content: bytes) -> bytes:
    """One chunk damaged, dropped or doubled, with a right checksum. Sides stay below 512 pixels: larger pictures are
    allowed to take room.
    """
    chunks, place = [], 8
    while place < len(content):
        (size,) = struct.unpack_from(">I", content, place)
        chunks.append((content[place + 4 : place + 8], content[place + 8 : place + 8 + size]))
        place += size + 12
    index = random.randrange(len(chunks))
    kind, data = chunks[index]
    sort = random.randrange(5)
    if sort == 0:
        del chunks[index]
    elif sort == 1:
        chunks.insert(index, chunks[index])
    elif sort == 2:
        kinds = (b"tEXt", b"zTXt", b"iTXt", b"tRNS", b"PLTE", b"acTL", b"fcTL", b"eXIf", b"iCCP", b"IHDR", b"abcd")
        chunks[index] = (random.choice(kinds), data)
    elif kind == b"IHDR":
        sides = struct.pack(">II", *(random.choice((0, 1, 7, 16, 511)) for _ in range(2)))
        chunks[index] = (kind, sides + bytes(random.choice((0, 1, 2, 3, 4, 6, 8, 16, 255)) for _ in range(5)))
    else:
        chunks[index] = (kind, mutated_bytes(random, data))
    parts = (struct.pack(">I", len(data)) + k + data + struct.pack(">I", zlib.crc32(k + data)) for k, data in chunks)
    return content[:8] + b"".join(parts)


def mutated_text(random: Random, content: bytes) -> bytes:
    odd = (b"\xff", b"\0", "\u2028".encode(), b"\r", b"\n" * 1000, b"x" * 100_000, b"\xef\xbb\xbf", b'{"prompt": 1}')
    place = random.randrange(len(content) + 1)
    return content[:place] + random.choice(odd) + content[place:]


KINDS: dict[str, Callable[[Random, bytes], bytes]] = {
    ".jsonl": mutated_lines,
    ".json": mutated_json,
    ".safetensors": tensors.mutated_file,
    ".gguf": gguf.mutated_file,
    ".pth": mutated_zip,
    ".bin": mutated_zip,
    ".png": mutated_png,
    ".txt": mutated_text,
}
