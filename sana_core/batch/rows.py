"""The rows of a batch: a picture each, with its id and its seed."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import InputError, listed
from ..pictures.saving import FORMATS
from ..pipeline.request import Request
from ..prompts.entries import READERS, STDIN, Entry, named, read_entries
from ..prompts.values import PICTURES, SETTINGS, request_of, shown
from ..seeds import derived_seed
from ..text.tokenizer import check_text
from .tables import TABLES

ID, FILE, REASON = "id", "file", "reason"  # columns that are no settings of a request
DIGITS = 6  # of an id made of a number: the same however long the file is, since the seed depends on it
LONGEST = 200  # bytes of a name between two slashes
DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10))}
ENDINGS = (*FORMATS, ".json")  # of plain files
MOST = 9999  # pictures of a row
RESERVED = {"batch"}  # names of files that lie beside plain pictures
RESERVED_FOLDERS = {".locks"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """A picture to draw.

    id: its key in tars and tables, unique. request: of one picture, with its seed. file: its path without an ending,
    relative to the folder of plain pictures. where: names it in errors.
    """

    id: str
    request: Request
    file: str
    where: str = ""

    def entry(self) -> dict[str, Any]:
        """What a prompt file holds that draws the same picture: columns and their values, as JSON takes them."""
        plain = Request("")
        found: dict[str, Any] = {ID: self.id}
        if self.file != self.id:
            found[FILE] = self.file
        for item in fields(Request):
            value = getattr(self.request, item.name)
            if item.name in SETTINGS and (item.name in ("prompt", "seed") or value != getattr(plain, item.name)):
                found[item.name] = _json(item.name, value)
        return found


def read_rows(
    path: str | Path,
    common: Request | None = None,
    *,
    seed: int = 0,
    id_column: str = ID,
    prompt_column: str = "prompt",
    other_columns: bool = False,
) -> list[Row]:
    """The rows of a prompt file: .txt, .json, .jsonl, .csv or .parquet; "-" is stdin.

    Columns: `id`, any of SETTINGS, `file`; `reason` is ignored. What a row does not give is taken from `common`.
    Without ids a row is called by its number in the file. A row without a seed has one made of `seed` and its id. A row
    with a batch_size of n is n rows, called id-0001 and so on. id_column, prompt_column: what these two are called in
    the file. other_columns: ignore columns of other names. Raises InputError, which names the file and the line.
    """
    suffix = "" if str(path) == STDIN else Path(path).suffix.lower()
    if suffix not in (*READERS, *TABLES, ""):
        raise InputError(f"{path}: a prompt file is one of {', '.join((*READERS, *TABLES))}")
    entries = TABLES[suffix](Path(path)) if suffix in TABLES else read_entries(path)
    if not entries:
        raise InputError(f"{named(path)} holds no prompt: write one per line")
    if id_column == prompt_column:
        raise InputError(f"the column {shown(id_column)} cannot hold both the ids and the prompts: name another one")
    if id_column != ID and not any(isinstance(entry.value, dict) and id_column in entry.value for entry in entries):
        raise InputError(f"{named(path)} has no column {shown(id_column)}: name the one that holds the ids")
    names = {id_column: ID, prompt_column: "prompt"}
    return rows_of(entries, common, seed=seed, names=names, other_columns=other_columns)


def rows_of(
    entries: list[Entry],
    common: Request | None = None,
    *,
    seed: int = 0,
    names: Mapping[str, str] | None = None,
    other_columns: bool = False,
) -> list[Row]:
    """The rows of entries, as `read_rows`. names: of columns that are called otherwise -> what they are."""
    common = Request("") if common is None else common
    names = names or {}
    taken = {*names, *names.values()}
    known = {**names, **{name: name for name in (ID, *SETTINGS, FILE, REASON) if name not in taken}}
    given = [_columns(entry, known, other_columns) for entry in entries]
    for entry, columns in zip(entries, given):
        if (ID in columns) != (ID in given[0]):
            lacking = entry if ID in given[0] else entries[0]
            raise InputError(f"{lacking.where} has no id, and other rows have one: give every row an id, or none")
    rows = [row for entry, columns in zip(entries, given) for row in _rows(entry, columns, common, seed)]
    _check_unique(rows)
    return rows


def _columns(entry: Entry, known: Mapping[str, str], others: bool) -> dict[str, Any]:
    """The columns of an entry that are given, under our names."""
    value, where = entry.value, entry.where
    if isinstance(value, str):
        return {"prompt": value}
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected a text or an object, found {shown(value)}")
    unknown = [shown(name) for name in value if name not in known]
    if unknown and not others:
        raise InputError(
            f"{where}: unknown column {listed(unknown)}, expected {', '.join(known)} (--other-columns ignores others)"
        )
    columns = {known[name]: item for name, item in value.items() if name in known and item is not None}
    columns.pop(REASON, None)
    if "prompt" not in columns:
        raise InputError(f"{where} has no prompt: fill it in, or name its column (--prompt-column)")
    return columns


def _rows(entry: Entry, columns: dict[str, Any], common: Request, base: int) -> Iterator[Row]:
    where = entry.where
    settings = {name: value for name, value in columns.items() if name not in (ID, FILE)}
    name = _id(columns[ID], where) if ID in columns else f"{entry.number:0{DIGITS}d}"
    file = _check_name(columns[FILE], where, FILE, dots=True) if FILE in columns else name
    first, *deeper = file.casefold().split("/")
    if first in RESERVED_FOLDERS or (first in RESERVED and not deeper):
        raise InputError(f"{where}: {shown(file)} cannot be the name of a picture: the batch has a file of this name")
    if "prompt" not in settings:
        raise InputError(f"{where} has no prompt: write one, or take the row out")
    try:
        request = request_of(settings, where, common).checked()
    except InputError as error:
        raise InputError(str(error) if str(error).startswith(where) else f"{where}: {error}") from error
    given, count = request.seed, request.batch_size
    if count > MOST:
        raise InputError(f"{where}: batch_size is {count}, expected at most {MOST} pictures of a row")
    for number in range(1, count + 1):
        end = "" if count == 1 else f"-{number:04d}"
        if given is None:
            seed = derived_seed(base, name + end)
        else:
            seed = given if number == 1 else derived_seed(given, number)
        yield Row(id=name + end, request=request.changed(seed=seed, batch_size=1), file=file + end, where=where)


def _id(value: object, where: str) -> str:
    if isinstance(value, float) and value.is_integer():  # other tools write 42.0
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value) if abs(value) < 10**LONGEST else ""
    return _check_name(value, where, ID, dots=False)


def _check_name(value: object, where: str, column: str, *, dots: bool) -> str:
    """A relative path that every system can have, and every reader of WebDataset takes as one key."""
    if not isinstance(value, str):
        raise InputError(f"{where}: {column} is {shown(value)}, expected a text or a whole number")
    check_text(value, f"{where}: {column}")
    *_, last = parts = value.split("/")
    wrong = None
    if any(part in ("", ".", "..") for part in parts):
        wrong = "names are separated by single slashes, and none is empty, . or .."
    elif re.search(r'[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\\:*?"<>|]', value):
        wrong = r'control characters and \ : * ? " < > | are no part of it'
    elif any(part != part.strip() or part.endswith(".") for part in parts):
        wrong = "names do not begin or end with a space, nor end with a dot"
    elif any(part.partition(".")[0].casefold() in DEVICES for part in parts):
        wrong = "Windows keeps names such as con and nul for devices"
    elif "." in last and not dots:
        wrong = "its last name has no dot, since a key of WebDataset ends at the first one"
    elif any(part.casefold().endswith(ENDINGS) for part in parts[:-1]):
        wrong = f"the name of a folder does not end in {', '.join(ENDINGS)}: that could be a picture of another row"
    elif any(len(part.encode()) > LONGEST for part in parts) or len(value.encode()) > 4 * LONGEST:
        wrong = f"it has at most {LONGEST} bytes between two slashes and {4 * LONGEST} in total"
    if wrong:
        raise InputError(f"{where}: {column} {shown(value)} cannot be the name of a picture: {wrong}")
    return value


def one_file(name: str) -> str:
    """The same for names that are one file on some system: Windows and macOS do without case, macOS takes letters with
    accents for the same however they are composed.
    """
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _check_unique(rows: list[Row]) -> None:
    for column, key in ((ID, lambda row: row.id), (FILE, lambda row: one_file(row.file))):
        seen: dict[str, Row] = {}
        for row in rows:
            first = seen.setdefault(key(row), row)
            if first is not row:
                raise InputError(
                    f"{row.where}: its {column} {shown(getattr(row, column))} is that of {first.where}, too: give "
                    f"every row another"
                )


def _json(name: str, value: Any) -> Any:
    if name == "instruction":
        return "none" if value is None else value
    if name == "pag_layers" and value is not None:
        return list(value)
    return str(value) if name in PICTURES and value is not None else value
