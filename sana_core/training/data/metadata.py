"""A folder with `metadata.jsonl`, as Hugging Face's ImageFolder has it: a row for each picture.

A row names the picture (`file_name`), its captions as a JSON file beside a picture does, and perhaps its condition
picture (`conditioning_image`, or with `_file_name` behind it).
"""

from __future__ import annotations

import ntpath
import os
import re
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from ...errors import InputError
from .caption_files import Weighted, json_value, row_captions
from .found import Found, Skip
from .picture import Stored

NAME = "metadata.jsonl"
CONDITIONS = ("conditioning_image", "conditioning_image_file_name")


def is_table(folder: Path, files: Sequence[str]) -> bool:
    """Has a folder with these files such rows? GenEval's folders have a file of this name, too: its row has a tag, and
    names no file.
    """
    if NAME not in files:
        return False
    try:
        row = json_value(next((line for _, line in _lines(folder, "", lambda *_: None)), b""))
    except InputError:
        return True
    return not isinstance(row, dict) or "tag" not in row or "file_name" in row


def find(folder: Path, prefix: str, skip: Skip, others: AbstractSet[str]) -> Iterator[Found]:
    """The pictures of all rows. prefix: stands before their names. others: pictures of the folder, which have to have
    a row.
    """
    seen: set[str] = set()
    followed: set[str] = set()
    for where, line in _lines(folder, prefix, skip):
        try:
            row = json_value(line)
            if not isinstance(row, dict):
                raise InputError("it is no JSON object")
            name, source = _inside(folder, row.get("file_name"), "file_name")
        except InputError as error:
            skip(where, str(error))
            continue
        if name in seen:
            skip(where, f"{name} has a row already: give all its captions in one")
            continue
        seen.add(name)
        followed |= {PurePosixPath(row[key]).as_posix() for key in CONDITIONS if isinstance(row.get(key), str)}
        try:
            yield _found(folder, prefix + name, source, row)
        except InputError as error:
            skip(prefix + name, str(error))
    for name in sorted(others - seen - followed):
        skip(prefix + name, f"it has no row in {NAME}")


def _lines(folder: Path, prefix: str, skip: Skip) -> Iterator[tuple[str, bytes]]:
    """Each line that is not empty, and what to call it."""
    try:
        with (folder / NAME).open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield f"{prefix}{NAME}, line {number}", line
    except OSError as error:
        skip(prefix + NAME, f"it cannot be read ({error.strerror})")


def _found(folder: Path, name: str, source: Stored, row: dict[str, Any]) -> Found:
    conditions = [(key, row[key]) for key in CONDITIONS if row.get(key) is not None]
    condition = _inside(folder, conditions[0][1], conditions[0][0])[1] if conditions else None
    captions = row_captions(row)
    return Found(name, os.path.splitext(name)[0], source, partial(_given, captions), condition)


def _given(captions: Weighted) -> Weighted:
    return captions


def _inside(folder: Path, name: Any, key: str) -> tuple[str, Stored]:
    """A file that a row names, and its name in one form. Raises InputError if it is outside the folder, or missing."""
    if not isinstance(name, str) or not name:
        raise InputError(f'its "{key}" is no file name')
    parts = re.split(r"[/\\]", name)
    if not parts[0] or ".." in parts or ntpath.splitdrive(name)[0]:
        raise InputError(f'its "{key}" is outside the folder: {name!a:.80}')
    path = folder / name
    if not os.path.isfile(path):
        raise InputError(f'its "{key}" is missing: {name!a:.80}')
    return PurePosixPath(name).as_posix(), Stored(path)
