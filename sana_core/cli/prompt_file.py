"""Files of prompts: what to draw, one picture (or batch) per entry."""

from __future__ import annotations

from pathlib import Path

from ..errors import InputError
from ..pipeline.request import Request
from ..prompts.entries import named, read_entries
from ..prompts.values import request_of


def read_prompt_file(path: str | Path, common: Request | None = None) -> list[Request]:
    """What to draw, in order, from a .txt, .json or .jsonl file, see `prompts/entries.py`; "-" is stdin.

    An entry is a prompt, or an object with `prompt` and, where it differs from `common`, any setting of `Request` that
    JSON can hold; null stands for a setting that is not given. Raises InputError, which names the file and the line.
    """
    common = common or Request("")
    requests = [request_of(entry.value, entry.where, common) for entry in read_entries(path)]
    if not requests:
        raise InputError(f"{named(path)} holds no prompt: write one per line")
    return requests
