"""Tables of prompts: .csv and .parquet."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..prompts.entries import Entry, read_text
from ..prompts.values import NUMBERS, WHOLE, shown

NO_PYARROW = "pyarrow is not installed: pip install pyarrow"


def read_csv(path: Path) -> list[Entry]:
    """The rows of a UTF-8 table with a line of names on top. An empty cell is not given. Raises InputError."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    entries: list[Entry] = []
    names: list[str] | None = None
    line = 1
    try:
        for cells in reader:
            where, line = f"{path}, line {line}", reader.line_num + 1
            if not any(cells):
                continue
            if names is None:
                names = cells
                _check_names(names, str(path))
                continue
            if len(cells) != len(names):
                raise InputError(f"{where}: {len(cells)} cells for {len(names)} columns: put texts in quotes")
            value = {name: _typed(name, cell) for name, cell in zip(names, cells)}
            entries.append(Entry(value, where, len(entries) + 1))
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: this is no CSV ({error})") from error
    return entries


def read_parquet(path: Path) -> list[Entry]:
    """The rows of a Parquet file. null, and a number that is not one, are not given. Raises InputError."""
    parquet = pyarrow_parquet(f"{path} cannot be read")
    try:
        with path.open("rb") as file:
            # its threads of reading ahead abort Python's end now and then (pyarrow 26.0.1, with PyTorch)
            table = parquet.ParquetFile(file, pre_buffer=False).read(use_threads=False)
            _check_names(table.column_names, str(path))
            rows = table.to_pylist()
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}): expected a Parquet file") from error
    except Exception as error:  # pyarrow raises many types for damaged files
        raise InputError(f"{path} cannot be read ({error}): expected a Parquet file") from error
    return [
        Entry({name: _given(value) for name, value in row.items()}, f"{path}, row {number}", number)
        for number, row in enumerate(rows, 1)
    ]


TABLES: dict[str, Callable[[Path], list[Entry]]] = {".csv": read_csv, ".parquet": read_parquet}


def pyarrow_parquet(why: str) -> Any:
    """The module pyarrow.parquet. why: what cannot be done without it. Raises InputError."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(f"{why}: {NO_PYARROW}") from error
    return pyarrow.parquet


def _check_names(names: list[str], source: str) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{source} has two columns {shown(twice[0])}: give each a name of its own")


def _typed(name: str, cell: str) -> Any:
    """A cell of CSV: a number where the column holds numbers, None where it is empty."""
    if not cell:
        return None
    text = cell.strip()
    if name in WHOLE and re.fullmatch(r"[+-]?[0-9]{1,40}", text):
        return int(text)
    if name in (*WHOLE, *NUMBERS):
        try:
            return float(text) if text.isascii() and "_" not in text else cell
        except ValueError:
            return cell
    return cell


def _given(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
