"""Read a data set: everything that can be known of its pictures without decoding them."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ...errors import InputError, safe_line
from . import folder, tars
from .example import DataSet, Example, tell_skipped
from .found import Found
from .picture import Picture, Stored, measured

THREADS = 8


def check_places(path: str | Path, conditions: str | Path | None = None) -> tuple[Path, Path | None]:
    """The two as paths. Raises InputError if there is nothing."""
    path, beside = Path(path), None if conditions is None else Path(conditions)
    for wanted in filter(None, (path, beside)):
        if not wanted.exists():
            raise InputError(f"{wanted} is missing: name the folder that holds the pictures")
    if beside is not None and not beside.is_dir():
        raise InputError(f"{beside} is no folder: name the one that holds the condition pictures")
    if beside is not None and path.is_dir() and beside.samefile(path):
        raise InputError(f"{beside} is the folder of the pictures: name another one for the condition pictures")
    return path, beside


def read_data(
    path: str | Path,
    *,
    conditions: str | Path | None = None,
    caption: str | None = None,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> DataSet:
    """The pictures of a folder or of a WebDataset's tar, in the order of their names.

    A folder may hold pictures with captions beside them (`caption_files.py`), folders with a `metadata.jsonl`, tars,
    and folders of all these. conditions: a folder with a condition picture for each picture, under the same name with
    any ending. caption: of pictures that have none of their own. threads: how many read files. progress: gets
    (done, total).

    What cannot be used is left out, with a line in the log that says why. Raises InputError if nothing is left.
    """
    path, beside = check_places(path, conditions)
    skipped: dict[str, str] = {}

    def skip(name: str, why: str) -> None:
        skipped.setdefault(safe_line(name), safe_line(why))

    if path.is_dir():
        found = list(folder.find(path, skip, leave_out=beside))
    elif path.name.lower().endswith(".tar"):
        found = list(tars.find(path, path.name, skip))
    else:
        raise InputError(f"{path} is no data set: name a folder, or a .tar of WebDataset")
    if not found and not skipped:
        raise InputError(
            f"{path} has no pictures: expected PNG, JPEG or WebP files with NAME.txt beside them, a metadata.jsonl, or "
            "tars"
        )
    plain = None if beside is None else folder.find_plain(beside, lambda name, why: skip(f"conditions: {name}", why))
    examples = _examples(found, plain, (caption or "").strip(), threads, skip, progress)
    tell_skipped(skipped)
    return DataSet(tuple(examples), tuple(sorted(skipped.items()))).checked(str(path))


def _examples(
    found: list[Found],
    conditions: dict[str, Stored] | None,
    caption: str,
    threads: int | None,
    skip: Callable[[str, str], None],
    progress: Callable[[int, int], None] | None,
) -> list[Example]:
    def make(item: Found) -> Example | str:
        try:
            return _example(item, conditions, caption)
        except InputError as error:
            return str(error)

    examples = []
    pool = ThreadPoolExecutor(threads or min(THREADS, os.cpu_count() or 1))
    try:
        for done, (item, made) in enumerate(zip(found, pool.map(make, found)), start=1):
            if isinstance(made, str):
                skip(item.name, made)
            else:
                examples.append(made)
            if progress is not None:
                progress(done, len(found))
    finally:
        pool.shutdown(cancel_futures=True)
    return sorted(examples, key=lambda example: example.name)


def _example(item: Found, conditions: dict[str, Stored] | None, caption: str) -> Example:
    captions = item.captions() or (((caption, 1.0),) if caption else ())
    if not captions:
        raise InputError(
            "it has no caption: write one beside it (NAME.txt) or in its row, or give one for all (--caption)"
        )
    condition = item.condition or (conditions or {}).get(item.stem)
    if condition is None and conditions is not None:
        raise InputError(f"it has no condition picture: put one of the name {item.stem} into --conditions")
    return Example(
        name=item.name,
        captions=captions,
        picture=measured(item.source),
        condition=None if condition is None else _condition(condition),
    )


def _condition(source: Stored) -> Picture:
    try:
        return measured(source)
    except InputError as error:
        raise InputError(f"its condition picture: {error}") from error
