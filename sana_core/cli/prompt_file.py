"""Files of prompts: what to draw, one picture (or batch) per entry."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..text.tokenizer import check_text


@dataclass(frozen=True, kw_only=True)
class Job:
    """One prompt with the settings that are its own; None: as for the others."""

    prompt: str
    negative_prompt: str | None = None
    seed: int | None = None
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    sampler: str | None = None
    shift: float | None = None
    pag_scale: float | None = None
    pag_layers: str | None = None  # "8" or "8, 9"
    image: str | None = None  # this and the other pictures: paths
    strength: float | None = None
    mask: str | None = None
    control_image: str | None = None
    control_scale: float | None = None

    def or_else(self, common: Job) -> Job:
        """This job with the settings of `common` where it has none."""
        own = {name: value for name, value in asdict(self).items() if value is not None}
        return replace(common, **own)


PICTURES = ("image", "mask", "control_image")
TEXTS = ("prompt", "negative_prompt", "sampler", "pag_layers", *PICTURES)
WHOLE = ("seed", "width", "height", "steps")
NUMBERS = ("guidance_scale", "shift", "pag_scale", "strength", "control_scale")


def read_prompt_file(path: str | Path) -> list[Job]:
    """What to draw, in order, from a UTF-8 text file.

    .txt: a prompt per line. .jsonl: a JSON string or object per line. .json: a list of those. Objects hold `prompt`
    and, where it differs from the rest, any other field of `Job`. Empty lines are skipped. Raises InputError, which
    names the file and the line.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}): expected a UTF-8 text file of prompts") from error
    if path.suffix.lower() not in READERS:
        raise InputError(f"{path}: a prompt file is one of {', '.join(READERS)}")
    try:
        jobs = READERS[path.suffix.lower()](text, str(path))
    except RecursionError as error:
        raise InputError(f"{path} is nested too deeply: expected texts or objects, one level deep") from error
    if not jobs:
        raise InputError(f"{path} holds no prompt: write one per line")
    return jobs


def _read_txt(text: str, source: str) -> list[Job]:
    return [Job(prompt=line.strip()) for line in text.splitlines() if line.strip()]


def _read_jsonl(text: str, source: str) -> list[Job]:
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    return [_job(_parse(line, f"{source}, line {number}"), f"{source}, line {number}") for number, line in lines]


def _read_json(text: str, source: str) -> list[Job]:
    entries = _parse(text, source) if text.strip() else []
    if not isinstance(entries, list):
        raise InputError(f"{source} holds a JSON {type(entries).__name__}, expected a list of prompts")
    return [_job(entry, f"{source}, entry {number}") for number, entry in enumerate(entries, 1)]


READERS: dict[str, Callable[[str, str], list[Job]]] = {".txt": _read_txt, ".json": _read_json, ".jsonl": _read_jsonl}


def _parse(text: str, source: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InputError(f"{source} is not JSON ({error})") from error


def _job(entry: object, source: str) -> Job:
    if isinstance(entry, str):
        return _job({"prompt": entry}, source)
    if not isinstance(entry, dict) or "prompt" not in entry:
        raise InputError(f'{source}: expected a text or an object with "prompt", found {json.dumps(entry)[:80]}')
    for name, value in entry.items():
        expected = (
            "a text"
            if name in TEXTS
            else "a whole number"
            if name in WHOLE
            else "a finite number"
            if name in NUMBERS
            else None
        )
        if expected is None:
            raise InputError(f'{source}: unknown setting "{name}", expected {", ".join((*TEXTS, *WHOLE, *NUMBERS))}')
        if not _is(expected, value):
            raise InputError(f"{source}: {name} is {json.dumps(value)[:80]}, expected {expected}")
        if isinstance(value, str):
            check_text(value, f"{source}: {name}")
    return Job(**entry)


def _is(expected: str, value: object) -> bool:
    if expected == "a text":
        return isinstance(value, str)
    if isinstance(value, bool) or not isinstance(value, int if expected == "a whole number" else (int, float)):
        return False
    return (
        expected == "a whole number" or abs(value) <= sys.float_info.max
    )  # JSON has NaN, Infinity and whole numbers of any length
