"""JSON with wrong values, keys that are missing, doubled or odd, and what JSON allows and nobody expects."""

from __future__ import annotations

import json
import math
from random import Random
from typing import Any

VALUES = (None, True, False, 0, 1, 2, 3, -1, -0.5, 0.5, 1e308, 2**31, 2**63, 2**64, 10**30, math.nan, math.inf,
          -math.inf, "", "x", "1", "nan", "1e400", "none", "auto", "\ud800", "\0", "x\n\x1b[2J", "/etc/passwd",
          "../../x", "y" * 5000, [], {}, [1], [[]], {"a": 1}, [None], ["x"], {"": None})  # fmt: skip
KEYS = ("", "x", "\ud800", "k" * 100_000, "\0", "__class__", "config", "layers", "format", "params", "position",
        "base_size", "quantization_config", "quant_method", "rope_parameters", "rope_theta", "sample_size",
        "interpolation_scale", "num_cross_attention_heads", "hidden_size", "peft_type", "alpha_pattern",
        "rank_pattern", "weight_map", "dtype", "convrot", "group_size", "model", "inputs")  # fmt: skip
DEPTHS = (2, 50, 300, 900, 960, 980, 990, 1000, 3000, 9000, 20_000, 100_000)
RAW = "\x01raw"  # stands for text that is put in as it is


def mutated_json(random: Random, content: bytes) -> bytes:
    """A JSON text with one thing changed."""
    value = json.loads(content)
    raw: list[str] = []
    value = _changed(random, value, raw)
    text = json.dumps(value)
    for index, piece in enumerate(raw):
        text = text.replace(json.dumps(f"{RAW}{index}"), piece)
    encoding = random.choice(("utf-16", "latin-1", "utf-8-sig")) if random.random() < 0.03 else "utf-8"
    return text.encode(encoding, "replace")


def mutated_lines(random: Random, content: bytes) -> bytes:
    """The same of one line of JSON among many."""
    lines = content.split(b"\n")
    index = random.randrange(len(lines))
    lines[index] = mutated_json(random, lines[index] or b"{}")
    return b"\n".join(lines)


def _changed(random: Random, value: Any, raw: list[str]) -> Any:
    """`value` with one change at a random place. raw: gets texts that JSON's own writer cannot write."""
    inner = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    if not inner or random.random() < 0.05:
        return _other(random, value, raw)
    place = random.choice(inner)
    if isinstance(value[place], (dict, list)) and value[place] and random.random() < 0.7:
        value[place] = _changed(random, value[place], raw)
        return value
    sort = random.randrange(8)
    if sort == 0:
        del value[place]
    elif sort == 1 and isinstance(value, dict):
        value[random.choice(KEYS)] = value.pop(place)
    elif sort == 2 and isinstance(value, dict):
        value[random.choice(KEYS)] = _other(random, value[place], raw)
    elif sort == 3:
        value[place] = value[random.choice(inner)]
    elif sort == 4 and isinstance(value, dict):  # the key twice
        first, second = (json.dumps(entry) for entry in (value[place], random.choice(VALUES)))
        raw.append(f"{first}, {json.dumps(place)}: {second}")
        value[place] = f"{RAW}{len(raw) - 1}"
    else:
        value[place] = _other(random, value[place], raw)
    return value


def _other(random: Random, value: Any, raw: list[str]) -> Any:
    """Another value in the place of this one."""
    sort = random.randrange(8)
    if sort == 0:
        depth = random.choice(DEPTHS)
        pieces = ("9" * 5000, "1" + "0" * 4299, "1e999", "-", "0x1", "[" * depth + "]" * depth,
                  '{"a":' * depth + "1" + "}" * depth, '"' + "x" * 1_000_000 + '"')  # fmt: skip
        raw.append(random.choice(pieces))
        return f"{RAW}{len(raw) - 1}"
    if sort == 1 and isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return random.choice((value + 1, value - 1, -value, value * 2, value * 10**6, value / 2, str(value), [value]))
    if sort == 2 and isinstance(value, str) and len(value) < 10_000:
        return random.choice((value * 3, value[:-1], value.upper(), value + " ", value + "\0", [value], value + "/x"))
    if sort == 3:
        return [value]
    return random.choice(VALUES)
