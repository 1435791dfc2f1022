"""Safetensors files: whole ones with other tensors or statements, and headers that lie."""

from __future__ import annotations

import json
import struct
from random import Random
from typing import Any

from .json_values import mutated_json

SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I64": 8, "I32": 4,
         "I16": 2, "I8": 1, "U8": 1, "U16": 2, "U32": 4, "U64": 8, "BOOL": 1, "C64": 8}  # fmt: skip
STATED = "__metadata__"
TEXTS = ("comfy_quant", "sana_config", "gemma_config")
SIDES = ("weight", "bias", "weight_scale", "weight_scale_2", "input_scale", "scale_weight", "scaled_fp8",
         "comfy_quant", "weight_codebook", "alpha", "lora_A.weight", "dora_scale", "diff", "qweight", "spiece_model",
         "weight._data", "absmax", "sana_config", "gemma_config", "running_mean", "norm_q.weight")  # fmt: skip
PARTS = ("0", "1", "00", "99999999", "transformer_blocks", "blocks", "layers", "attn1", "to_q", "decoder", "encoder",
         "model", "_orig_mod", "module", "controlnet", "", "x" * 1000, "lora_unet_", "proj_out")  # fmt: skip
Stored = dict[str, tuple[str, list[int], bytes]]  # number type, shape, bytes by name


def file_bytes(stored: Stored, metadata: dict[str, str] | None = None) -> bytes:
    """A whole safetensors file."""
    entries: dict[str, Any] = {STATED: metadata} if metadata else {}
    place = 0
    for name, (dtype, shape, content) in stored.items():
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [place, place + len(content)]}
        place += len(content)
    return with_header(json.dumps(entries).encode(), b"".join(content for _, _, content in stored.values()))


def with_header(header: bytes, data: bytes) -> bytes:
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + data


def mutated_file(random: Random, content: bytes) -> bytes:
    (size,) = struct.unpack_from("<Q", content)
    header, data = content[8 : 8 + size], content[8 + size :]
    if random.random() < 0.2:
        return with_header(_lying(random, header), data)
    entries = json.loads(header)
    metadata = entries.pop(STATED, None)
    stored = {name: _tensor(entry, data) for name, entry in entries.items()}
    if random.random() < (0.5 if metadata else 0.1):
        return file_bytes(stored, _other_metadata(random, metadata or {}))
    return file_bytes(_other_tensors(random, stored), metadata)


def _tensor(entry: dict[str, Any], data: bytes) -> tuple[str, list[int], bytes]:
    begin, end = entry["data_offsets"]
    return entry["dtype"], entry["shape"], data[begin:end]


def _lying(random: Random, header: bytes) -> bytes:
    """A header of which some entry is wrong."""
    if random.random() < 0.3:
        return mutated_json(random, header)
    entries = json.loads(header)
    entry = entries[random.choice([name for name in entries if name != STATED])]
    begin, end = entry["data_offsets"]
    sizes = (0, 1, 2**31, 2**32, 2**62, 2**63, 2**64, -1)
    sort = random.randrange(5)
    if sort == 0:
        entry["data_offsets"] = random.choice(([end, begin], [0, end], [begin, end + 4], [begin, begin], [0, 2**63]))
    elif sort == 1:
        entry["shape"] = [*entry["shape"][:-1], random.choice(sizes)]
    elif sort == 2:
        entry["shape"], entry["data_offsets"] = [random.choice(sizes), 0, random.choice(sizes)], [begin, begin]
    elif sort == 3:
        entry["dtype"] = random.choice((*SIZES, "F4", "F6_E2M3", "Q9", "", 1, None, [], "x" * 5000))
    else:
        entry[random.choice(("dtype", "shape", "data_offsets", "more"))] = random.choice((None, "x", [], {}, 1.5))
    return json.dumps(entries).encode()


def _other_metadata(random: Random, metadata: dict[str, str]) -> dict[str, str]:
    known = ("config", "sampling", "_quantization_metadata", "lora_adapter_metadata", "rms_norm_eps", "hidden_size",
             "num_hidden_layers", "x" * 100_000)  # fmt: skip
    key = random.choice([*metadata, *metadata, *metadata, random.choice(known)])
    text = metadata.get(key, random.choice(("{}", "[]", "", "{", '{"layers": {"x": {"format": "nvfp4"}}}', "1e999")))
    if text.startswith("{") and random.random() < 0.9:
        text = mutated_json(random, text.encode("utf-8", "surrogatepass")).decode("utf-8", "replace")
    return {**metadata, key: text}


def _other_tensors(random: Random, stored: Stored) -> Stored:
    names = list(stored)
    sides = [name for name in names if name.endswith((*SIDES[2:], "spiece_model"))]
    name = random.choice(sides if sides and random.random() < 0.5 else names)
    dtype, shape, content = stored[name]
    sort = random.randrange(9)
    if sort == 0:
        del stored[name]
    elif sort == 1:
        stored[_other_name(random, name)] = stored.pop(name)
    elif sort == 2:
        stored[_other_name(random, name)] = stored[name]
    elif sort == 3:  # another type; the first size takes what is left
        other = random.choice(list(SIZES))
        count, rest = len(content) // SIZES[other], 1
        for side in shape[1:]:
            rest *= side
        stored[name] = (other, [count // rest, *shape[1:]], content[: count // rest * rest * SIZES[other]])
    elif sort == 4:
        ones = [1] * random.choice((1, 2, 7, 70))
        stored[name] = (dtype, random.choice(([*shape, *ones], [*ones, *shape], shape[::-1])), content)
    elif sort == 5:
        stored[name] = random.choice(((dtype, [0], b""), (dtype, [0, *shape], b""), (dtype, [*shape, 0], b"")))
    elif sort == 6:  # no dimension, one number
        stored[name] = (dtype, [], content[: SIZES[dtype]].ljust(SIZES[dtype], b"\0"))
    elif sort == 7:
        if name.endswith(TEXTS):
            text = mutated_json(random, content)
            stored[name] = (dtype, [len(text)], text)
        else:
            place = random.randrange(max(len(content) - 4, 0) + 1)
            odd = random.choice((b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\xff\xff\xff\xff", b"\0\0\0\0", b"\0\0\0\xff"))
            stored[name] = (dtype, shape, (content[:place] + odd + content[place + 4 :])[: len(content)])
    else:
        side = random.choice(SIDES)
        beside = (f"{name.rpartition('.')[0]}.{side}", side)[random.random() < 0.3]
        stored[beside] = random.choice((stored[random.choice(names)], ("U8", [2], b"{}"), ("F32", [], b"\0\0\x80\x3f")))
    return stored


def _other_name(random: Random, name: str) -> str:
    parts = name.split(".")
    place = random.randrange(len(parts))
    parts[place] = random.choice((*PARTS, *SIDES))
    if random.random() < 0.3:
        parts.insert(place, random.choice(PARTS))
    return ".".join(parts)
