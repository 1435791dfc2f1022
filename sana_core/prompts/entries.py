"""The entries of a text file of prompts: .txt, .json, .jsonl."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import InputError

STDIN = "-"


class Entry(NamedTuple):
    """value: as it was written. where: names it in errors. number: of its line, or in its list, from 1."""

    value: Any
    where: str
    number: int


def read_entries(path: str | Path) -> list[Entry]:
    """What a UTF-8 text file holds, in order; "-" is stdin.

    .txt: a text per line. .jsonl: a JSON value per line. .json: a list of those. Without a suffix, as stdin or a pipe,
    the beginning tells which. Lines end at \\n or \\r\\n and at nothing else; empty lines are skipped. Raises
    InputError, which names the file and the line.
    """
    source = named(path)
    suffix = "" if source == "stdin" else Path(path).suffix.lower()
    text = read_text(path)
    if suffix not in (*READERS, ""):
        raise InputError(f"{source}: a prompt file is one of {', '.join(READERS)}")
    try:
        return READERS[suffix or _kind(text)](text, source)
    except RecursionError as error:
        raise InputError(f"{source} is nested too deeply: expected texts or objects, one level deep") from error


def named(path: str | Path) -> str:
    """A file's name in errors."""
    return "stdin" if str(path) == STDIN else str(path)


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file, or of stdin. Raises InputError."""
    try:
        if str(path) != STDIN:
            content = Path(path).read_bytes()
        elif sys.stdin is None:
            raise OSError("there is no stdin")
        else:
            content = sys.stdin.buffer.read()
        return content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        said = getattr(error, "strerror", None) or error
        raise InputError(f"{named(path)} cannot be read ({said}): expected a UTF-8 text file of prompts") from error


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


def _read_txt(text: str, source: str) -> list[Entry]:
    return [Entry(line.strip(), f"{source}, line {number}", number) for line, number in _filled(text)]


def _read_jsonl(text: str, source: str) -> list[Entry]:
    places = [(line, f"{source}, line {number}", number) for line, number in _filled(text)]
    return [Entry(_parse(line, where), where, number) for line, where, number in places]


def _read_json(text: str, source: str) -> list[Entry]:
    values = _parse(text, source) if text.strip() else []
    if not isinstance(values, list):
        raise InputError(f"{source} holds a JSON {type(values).__name__}, expected a list of prompts")
    return [Entry(value, f"{source}, entry {number}", number) for number, value in enumerate(values, 1)]


READERS: dict[str, Callable[[str, str], list[Entry]]] = {".txt": _read_txt, ".json": _read_json, ".jsonl": _read_jsonl}


def _filled(text: str) -> list[tuple[str, int]]:
    return [(line, number) for number, line in enumerate(_lines(text), 1) if line.strip()]


def _parse(text: str, source: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InputError(f"{source} is not JSON ({error})") from error
