"""Prompt files of batches, whose entries have ids: text files and tables."""

from __future__ import annotations

import functools
import io
import json
from importlib.util import find_spec
from pathlib import Path

from sana_core.batch.rows import read_rows
from sana_core.config import SamplingDefaults

from ..target import Files, Target
from . import networks

ROWS = [
    {"id": "a/1", "prompt": "a cat, grey", "seed": 3, "steps": 4, "shift": 2.0, "file": "cats/0.a", "batch_size": 2},
    {"id": "b", "prompt": 'a "dog"', "seed": None, "steps": None, "shift": None, "file": None, "batch_size": None},
]


@functools.cache
def texts() -> list[Files]:
    lines = [",".join(ROWS[0]), 'a/1,"a cat, grey",3,4,2.0,cats/0.a,2', 'b,"a ""dog""",,,,,']
    plain = '{"prompt": "x", "reason": "none", "pag_layers": [0]}\n"y"\n'
    return [
        {"prompts.csv": "\r\n".join(lines).encode()},
        {"prompts.csv": "prompt\na cat\n\na dog \u2028\n".encode()},
        {"prompts.jsonl": "\n".join(map(json.dumps, ROWS)).encode()},
        {"prompts.jsonl": plain.encode()},
        {"prompts.json": json.dumps(ROWS).encode()},
    ]


@functools.cache
def tables() -> list[Files]:
    import pyarrow
    from pyarrow import parquet

    found: list[Files] = []
    for compression in ("none", "snappy"):
        file = io.BytesIO()
        parquet.write_table(pyarrow.Table.from_pylist(ROWS), file, compression=compression)
        found.append({"prompts.parquet": file.getvalue()})
    return found


def read(folder: Path) -> None:
    for row in read_rows(next(folder.iterdir())):
        row.request.resolve(SamplingDefaults(), networks.config())


TARGETS = (
    Target(name="prompt_rows", seeds=texts, read=read),
    *([Target(name="prompt_parquet", seeds=tables, read=read)] if find_spec("pyarrow") else []),
)
