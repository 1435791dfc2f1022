"""GGUF's block types in plain PyTorch: packed bytes to numbers, and numbers to packed bytes.

A row of a weight is cut into blocks of 32 or 256 numbers. A block holds its scales and the small whole numbers that
they multiply, as bytes in a row. Scales are float16; sums and products are float32 in the order of ggml, so results
agree with it bit for bit. Source of the layouts: ggml-common.h and ggml-quants.c of llama.cpp.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import CheckpointError, InputError

IQ4_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)  # of iq4_nl and iq4_xs


@dataclass(frozen=True)
class Block:
    """A block type.

    numbers, size: numbers and bytes of a block.  unpack: bytes (..., size) of uint8 -> float32 (..., numbers).  pack:
    the other way round, None where it is not written here.
    """

    numbers: int
    size: int
    unpack: Callable[[Tensor], Tensor]
    pack: Callable[[Tensor], Tensor] | None = None

    def row_size(self, numbers: int) -> int:
        """Bytes of a row of so many numbers. The caller sees to it that blocks divide it."""
        return numbers // self.numbers * self.size


def dequantise(packed: Tensor, type: str) -> Tensor:
    """Rows of bytes, uint8 (..., bytes of a row) -> float32 (..., numbers of a row), on the same device.

    type: a name in BLOCKS. Raises CheckpointError for another name and for rows that are not whole blocks.
    """
    block = _block(type)
    blocks = _split(packed, block.size, f"a row of {packed.shape[-1]} bytes", type)
    return block.unpack(blocks).reshape(*packed.shape[:-1], blocks.shape[-2] * block.numbers)


def quantise(weight: Tensor, type: str) -> Tensor:
    """Numbers (..., K) -> uint8 (..., bytes of a row), rounded to nearest, as ggml's reference does it.

    type: q8_0, q4_0, q4_1, q5_0 or q5_1. Raises InputError for a type that is not written here, CheckpointError for a
    width that blocks do not divide.
    """
    block = _block(type)
    if block.pack is None:
        raise InputError(f"{type} is read, not written: choose {', '.join(writable())}")
    blocks = _split(weight, block.numbers, f"a row of {weight.shape[-1]} numbers", type)
    return block.pack(blocks.float()).reshape(*weight.shape[:-1], blocks.shape[-2] * block.size)


def quantise_q8_0(weight: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Numbers (..., K) -> uint8 (..., K / 32 * 34) of q8_0.

    generator: on the weight's device. With it numbers are rounded at random to one of their neighbours, such that the
    mean is right; without it to the nearest, as `quantise` does.
    """
    if generator is None:
        return quantise(weight, "q8_0")
    blocks = _split(weight, 32, f"a row of {weight.shape[-1]} numbers", "q8_0").float()
    scale = (blocks.abs().amax(-1, keepdim=True) / 127).half()
    chance = torch.rand(blocks.shape, generator=generator, device=blocks.device, dtype=torch.float32)
    whole = (blocks * _inverse(scale.float()) + chance).floor().clamp(-127, 127)
    packed = torch.cat([_bytes(scale), _bytes(whole.to(torch.int8))], -1)
    return packed.reshape(*weight.shape[:-1], -1)


def writable() -> tuple[str, ...]:
    """The types that `quantise` makes."""
    return tuple(name for name, block in BLOCKS.items() if block.pack)


def _block(type: str) -> Block:
    if type not in BLOCKS:
        raise CheckpointError(f"{type} is not a known block type of GGUF: expected one of {', '.join(BLOCKS)}")
    return BLOCKS[type]


def _split(rows: Tensor, size: int, found: str, type: str) -> Tensor:
    """(..., n * size) -> (..., n, size)."""
    if rows.ndim == 0 or rows.shape[-1] % size:
        raise CheckpointError(f"{found} is not whole blocks of {type}, expected a multiple of {size}")
    return rows.reshape(*rows.shape[:-1], rows.shape[-1] // size, size)


# --- what the layouts are made of ---------------------------------------------------------------------------------


def _half(data: Tensor) -> Tensor:
    """Two bytes (..., 2) -> float32 (..., 1)."""
    return data.contiguous().view(torch.float16).float()


def _bytes(values: Tensor) -> Tensor:
    """(..., n) of any type -> uint8 (..., n * element size)."""
    return values.contiguous().view(torch.uint8)


def _bits(data: Tensor, width: int, run: int) -> Tensor:
    """Fields of `width` bits, from the low end of each byte: uint8 (..., n) -> (..., n * 8 / width).

    The bytes are taken in runs. First come the lowest fields of a whole run, then the next ones of the same run.
    """
    shifts = torch.arange(0, 8, width, dtype=torch.uint8, device=data.device)
    runs = data.reshape(*data.shape[:-1], data.shape[-1] // run, 1, run)
    fields = (runs >> shifts[:, None]) & ((1 << width) - 1)
    return fields.reshape(*data.shape[:-1], data.shape[-1] * len(shifts))


def _single_bits(data: Tensor) -> Tensor:
    """The bits of every byte in order, lowest first: uint8 (..., n) -> (..., 8 n) of 0 and 1."""
    return _bits(data, 1, 1)


def _times(scales: Tensor, values: Tensor, offsets: Tensor | None = None) -> Tensor:
    """values (..., n) in groups, one for each of scales (..., m), times the group's scale, less its offset."""
    groups = values.float().reshape(*scales.shape, values.shape[-1] // scales.shape[-1])
    result = scales[..., None] * groups
    if offsets is not None:
        result = result - offsets[..., None]
    return result.flatten(-2)


def _inverse(scale: Tensor) -> Tensor:
    return torch.where(scale == 0, torch.zeros_like(scale), 1 / scale)


# --- bytes to numbers ---------------------------------------------------------------------------------------------


def _unpack_q8_0(data: Tensor) -> Tensor:
    return data[..., 2:].contiguous().view(torch.int8).float() * _half(data[..., :2])


def _unpack_q4_0(data: Tensor) -> Tensor:
    return _half(data[..., :2]) * (_bits(data[..., 2:], 4, 16).float() - 8)


def _unpack_q4_1(data: Tensor) -> Tensor:
    return _half(data[..., :2]) * _bits(data[..., 4:], 4, 16).float() + _half(data[..., 2:4])


def _five(high: Tensor, low: Tensor) -> Tensor:
    return (_bits(low, 4, 16) | (_single_bits(high) << 4)).float()


def _unpack_q5_0(data: Tensor) -> Tensor:
    return _half(data[..., :2]) * (_five(data[..., 2:6], data[..., 6:]) - 16)


def _unpack_q5_1(data: Tensor) -> Tensor:
    return _half(data[..., :2]) * _five(data[..., 4:8], data[..., 8:]) + _half(data[..., 2:4])


def _unpack_q2_k(data: Tensor) -> Tensor:
    scales, values, scale, least = data.split([16, 64, 2, 2], -1)
    return _times(_half(scale) * (scales & 15).float(), _bits(values, 2, 32), _half(least) * (scales >> 4).float())


def _unpack_q3_k(data: Tensor) -> Tensor:
    high, low, scales, scale = data.split([32, 64, 12, 2], -1)
    six = _bits(scales[..., :8], 4, 8) | (_bits(scales[..., 8:], 2, 4) << 4)
    values = _bits(low, 2, 32).float() - (1 - _bits(high, 1, 32).float()) * 4  # a bit that is not set takes off 4
    return _times(_half(scale) * (six.float() - 32), values)


def _six_bit_scales(packed: Tensor) -> tuple[Tensor, Tensor]:
    """Eight scales and eight offsets of 6 bits in 12 bytes (..., 12), as q4_k and q5_k have them, as float32."""
    scales, offsets, rest = packed.split(4, -1)
    first = torch.cat([scales & 63, (rest & 15) | ((scales >> 2) & 48)], -1)
    second = torch.cat([offsets & 63, (rest >> 4) | ((offsets >> 2) & 48)], -1)
    return first.float(), second.float()


def _unpack_q4_k(data: Tensor) -> Tensor:
    scale, least, packed, values = data.split([2, 2, 12, 128], -1)
    scales, offsets = _six_bit_scales(packed)
    return _times(_half(scale) * scales, _bits(values, 4, 32), _half(least) * offsets)


def _unpack_q5_k(data: Tensor) -> Tensor:
    scale, least, packed, high, low = data.split([2, 2, 12, 32, 128], -1)
    scales, offsets = _six_bit_scales(packed)
    values = _bits(low, 4, 32) | (_bits(high, 1, 32) << 4)
    return _times(_half(scale) * scales, values, _half(least) * offsets)


def _unpack_q6_k(data: Tensor) -> Tensor:
    low, high, scales, scale = data.split([128, 64, 16, 2], -1)
    values = (_bits(low, 4, 64) | (_bits(high, 2, 32) << 4)).float() - 32
    return _times(_half(scale) * scales.contiguous().view(torch.int8).float(), values)


def _iq4(values: Tensor, run: int) -> Tensor:
    table = torch.tensor(IQ4_VALUES, dtype=torch.float32, device=values.device)
    return table[_bits(values, 4, run).int()]


def _unpack_iq4_nl(data: Tensor) -> Tensor:
    return _half(data[..., :2]) * _iq4(data[..., 2:], 16)


def _unpack_iq4_xs(data: Tensor) -> Tensor:
    scale, high, low, values = data.split([2, 2, 4, 128], -1)
    six = (_bits(low, 4, 1) | (_bits(high, 2, 1) << 4)).float() - 32
    return _times(_half(scale) * six, _iq4(values, 16))


# --- numbers to bytes ---------------------------------------------------------------------------------------------


def _pack_q8_0(blocks: Tensor) -> Tensor:
    scale = blocks.abs().amax(-1, keepdim=True) / 127
    exact = blocks * _inverse(scale)
    size = exact.abs()
    whole = size.floor()
    away = exact.sign() * (whole + (2 * (size - whole)).floor())  # halves go away from zero
    return torch.cat([_bytes(scale.half()), _bytes(away.to(torch.int8))], -1)


def _pack_signed(blocks: Tensor, bits: int) -> Tensor:
    """q4_0 and q5_0: the number of the largest size becomes the lowest code, so that its sign may be either."""
    half = 1 << (bits - 1)
    scale = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True)) / -half
    codes = (blocks * _inverse(scale) + (half + 0.5)).trunc().clamp(0, 2 * half - 1)
    return torch.cat([_bytes(scale.half()), _codes(codes.to(torch.uint8), bits)], -1)


def _pack_ranged(blocks: Tensor, bits: int) -> Tensor:
    """q4_1 and q5_1: codes count from the block's least number to its largest."""
    least = blocks.amin(-1, keepdim=True)
    most = (1 << bits) - 1
    scale = (blocks.amax(-1, keepdim=True) - least) / most
    codes = ((blocks - least) * _inverse(scale) + 0.5).trunc().clamp(0, most)
    return torch.cat([_bytes(scale.half()), _bytes(least.half()), _codes(codes.to(torch.uint8), bits)], -1)


def _codes(codes: Tensor, bits: int) -> Tensor:
    """32 codes of 4 or 5 bits: first the fifth bits, 4 bytes of them, then the low four, two in a byte."""
    low = (codes[..., :16] & 15) | ((codes[..., 16:] & 15) << 4)
    if bits == 4:
        return low
    places = 1 << torch.arange(8, dtype=torch.int32, device=codes.device)
    eights = (codes >> 4).reshape(*codes.shape[:-1], 4, 8).int()
    return torch.cat([(eights * places).sum(-1).to(torch.uint8), low], -1)


def _pack_q4_0(blocks: Tensor) -> Tensor:
    return _pack_signed(blocks, 4)


def _pack_q4_1(blocks: Tensor) -> Tensor:
    return _pack_ranged(blocks, 4)


def _pack_q5_0(blocks: Tensor) -> Tensor:
    return _pack_signed(blocks, 5)


def _pack_q5_1(blocks: Tensor) -> Tensor:
    return _pack_ranged(blocks, 5)


BLOCKS: dict[str, Block] = {
    "q8_0": Block(32, 34, _unpack_q8_0, _pack_q8_0),
    "q4_0": Block(32, 18, _unpack_q4_0, _pack_q4_0),
    "q4_1": Block(32, 20, _unpack_q4_1, _pack_q4_1),
    "q5_0": Block(32, 22, _unpack_q5_0, _pack_q5_0),
    "q5_1": Block(32, 24, _unpack_q5_1, _pack_q5_1),
    "q2_k": Block(256, 84, _unpack_q2_k),
    "q3_k": Block(256, 110, _unpack_q3_k),
    "q4_k": Block(256, 144, _unpack_q4_k),
    "q5_k": Block(256, 176, _unpack_q5_k),
    "q6_k": Block(256, 210, _unpack_q6_k),
    "iq4_nl": Block(32, 18, _unpack_iq4_nl),
    "iq4_xs": Block(256, 136, _unpack_iq4_xs),
}
