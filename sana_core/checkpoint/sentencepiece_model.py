"""Write a SentencePiece model of Gemma's kind: BPE with byte fallback, texts taken as they are.

The format is protobuf: fields of a number and a value, one after the other. Source: sentencepiece_model.proto of
SentencePiece.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from enum import IntEnum


class Kind(IntEnum):
    """Kinds of pieces; GGUF has the same numbers."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


BPE = 2  # of the kinds of models
SPECIAL = {"<unk>": (40, 45), "<bos>": (41, 46), "<eos>": (42, 47), "<pad>": (43, 48)}  # fields of its id and its name


def sentencepiece_model(pieces: Iterable[tuple[str, float, int]]) -> bytes:
    """The serialised model of pieces, each with its score and its kind, in the order of their ids."""
    pieces = list(pieces)
    model = bytearray()
    for piece, score, kind in pieces:
        content = _data(1, piece.encode()) + _float(2, score)
        model += _data(1, content if kind == Kind.NORMAL else content + _whole(3, kind))
    ids = {piece: index for index, (piece, _, _) in enumerate(pieces) if piece in SPECIAL}
    trainer = _whole(3, BPE) + _whole(4, len(pieces)) + _whole(35, 1)  # 35: byte fallback
    for piece, (id_field, name_field) in SPECIAL.items():
        trainer += _whole(id_field, ids.get(piece, -1)) + _data(name_field, piece.encode())
    normaliser = _data(1, b"identity") + _data(2, b"") + _whole(3, 0) + _whole(4, 0)  # no space before, none removed
    return bytes(model + _data(2, trainer) + _data(3, normaliser))


def _data(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _whole(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value & (1 << 64) - 1)  # negative numbers as 64 bits


def _float(field: int, value: float) -> bytes:
    return _varint(field << 3 | 5) + struct.pack("<f", value)


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the high bit says that there are more."""
    content = bytearray()
    while value > 127:
        content.append(value & 127 | 128)
        value >>= 7
    return bytes([*content, value])
