"""Files of prompts: what to draw, one picture (or batch) per entry."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..pipeline.request import Request
from ..samplers.guidance import block_numbers
from ..text.tokenizer import check_text

STDIN = "-"
PICTURES = ("image", "mask", "control_image")  # file names
TEXTS = ("prompt", "negative_prompt", "instruction", "negative_mask", "sampler", "pag_layers", *PICTURES)
WHOLE = ("seed", "width", "height", "steps", "batch_size")
NUMBERS = ("guidance_scale", "shift", "pag_scale", "strength", "control_scale")


def read_prompt_file(path: str | Path, common: Request | None = None) -> list[Request]:
    """What to draw, in order, from a UTF-8 text file; "-" is stdin.

    .txt: a prompt per line. .jsonl: a JSON string or object per line. .json: a list of those. Without a suffix, as
    stdin or a pipe, the beginning tells which. Lines end at \\n or \\r\\n and at nothing else; empty lines are skipped.
    Objects hold `prompt` and, where it differs from `common`, any setting of `Request` that JSON can hold; null stands
    for a setting that is not given. Raises InputError, which names the file and the line.
    """
    common = common or Request("")
    text, source = _read(str(path))
    suffix = "" if str(path) == STDIN else Path(path).suffix.lower()
    if suffix not in (*READERS, ""):
        raise InputError(f"{source}: a prompt file is one of {', '.join(READERS)}")
    try:
        entries = READERS[suffix or _kind(text)](text, source)
        requests = [_request(entry, where, common) for entry, where in entries]
    except RecursionError as error:
        raise InputError(f"{source} is nested too deeply: expected texts or objects, one level deep") from error
    if not requests:
        raise InputError(f"{source} holds no prompt: write one per line")
    return requests


def _read(path: str) -> tuple[str, str]:
    """The text of a file, and its name for errors."""
    source = "stdin" if path == STDIN else path
    try:
        if path != STDIN:
            content = Path(path).read_bytes()
        elif sys.stdin is None:
            raise OSError("there is no stdin")
        else:
            content = sys.stdin.buffer.read()
        return content.decode("utf-8-sig"), source
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{source} cannot be read ({error}): expected a UTF-8 text file of prompts") from error


def _kind(text: str) -> str:
    """The suffix that fits a text without one."""
    first = next((line for line in _lines(text) if line.strip()), "")
    for content, kind, types in ((first, ".jsonl", (dict, str)), (text, ".json", list)):
        try:
            if isinstance(json.loads(content), types):
                return kind
        except ValueError:
            continue
    return ".txt"


def _lines(text: str) -> list[str]:
    """Unlike str.splitlines, which breaks lines at U+2028 and others that may stand inside a prompt."""
    return re.split(r"\r?\n", text)


def _read_txt(text: str, source: str) -> list[tuple[Any, str]]:
    return [(line.strip(), source) for line in _lines(text) if line.strip()]


def _read_jsonl(text: str, source: str) -> list[tuple[Any, str]]:
    lines = [(line, f"{source}, line {number}") for number, line in enumerate(_lines(text), 1) if line.strip()]
    return [(_parse(line, where), where) for line, where in lines]


def _read_json(text: str, source: str) -> list[tuple[Any, str]]:
    entries = _parse(text, source) if text.strip() else []
    if not isinstance(entries, list):
        raise InputError(f"{source} holds a JSON {type(entries).__name__}, expected a list of prompts")
    return [(entry, f"{source}, entry {number}") for number, entry in enumerate(entries, 1)]


READERS: dict[str, Callable[[str, str], list[tuple[Any, str]]]] = {
    ".txt": _read_txt,
    ".json": _read_json,
    ".jsonl": _read_jsonl,
}


def _parse(text: str, source: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InputError(f"{source} is not JSON ({error})") from error


def _request(entry: object, source: str, common: Request) -> Request:
    if isinstance(entry, str):
        entry = {"prompt": entry}
    if not isinstance(entry, dict) or "prompt" not in entry:
        raise InputError(f'{source}: expected a text or an object with "prompt", found {_shown(entry)}')
    values = {name: _value(name, value, source) for name, value in entry.items() if value is not None}
    if "prompt" not in values:
        raise InputError(f"{source}: prompt is null, expected a text")
    return common.changed(**values)


def _value(name: str, value: object, source: str) -> Any:
    """A setting in its own type."""
    if name == "pag_layers" and isinstance(value, list):
        return [_value("steps", item, f"{source}: pag_layers") for item in value]
    if name in TEXTS:
        if not isinstance(value, str):
            raise InputError(f"{source}: {name} is {_shown(value)}, expected a text")
        check_text(value, f"{source}: {name}")
        return {"pag_layers": block_numbers, "instruction": _instruction}.get(name, str)(value)
    if name in WHOLE or name in NUMBERS:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if name in WHOLE and value == value // 1:  # other tools write 42.0
                return int(value)
            # JSON has NaN, Infinity and whole numbers of any length
            if name in NUMBERS and abs(value) <= sys.float_info.max:
                return value
        kind = "a whole number" if name in WHOLE else "a finite number"
        raise InputError(f"{source}: {name} is {_shown(value)}, expected {kind}")
    known = ", ".join((*TEXTS, *WHOLE, *NUMBERS))
    raise InputError(f"{source}: unknown setting {_shown(name)}, expected {known}")


def _instruction(text: str) -> str | None:
    return None if text == "none" else text


def _shown(value: object) -> str:
    return json.dumps(value)[:80]
