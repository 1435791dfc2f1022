"""What a folder of pictures is for: a batch of some rows and settings, noted in batch.json. Others are refused."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..prompts.values import shown
from .output import explained, whole

RECORD = "batch.json"
DIGEST = "digest of the rows"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """fingerprint: what has to be the same to go on in the folder; names and values as JSON takes them."""

    folder: Path
    fingerprint: Mapping[str, Any]

    @property
    def path(self) -> Path:
        return self.folder / RECORD

    def check(self) -> None:
        """Raise InputError if the folder holds a batch of other settings. Changes nothing."""
        with explained(self.folder):
            if self.path.exists():
                self._compare()

    def begin(self) -> None:
        """Note it in the folder. Raises InputError as `check`, and if the folder cannot be written."""
        with explained(self.folder), locked(self.folder, "batch", wait=True):
            if self.path.exists():
                self._compare()
            else:
                with whole(self.path) as file:
                    file.write(json.dumps(self.fingerprint, indent=1).encode() + b"\n")

    def _compare(self) -> None:
        try:
            found = json.loads(self.path.read_text("utf-8"))
            if not isinstance(found, dict):
                raise ValueError("it holds no object")
        except ValueError as error:
            raise InputError(f"{self.path} is not the record of a batch ({error}): name another folder") from error
        ours = json.loads(json.dumps(self.fingerprint))
        for name in sorted({**ours, **found}, key=lambda name: name == DIGEST):  # what has a name of its own first
            if found.get(name) != ours.get(name):
                if name == DIGEST:
                    raise InputError(
                        f"{self.folder} holds a batch of other rows (prompts, ids, seeds or settings of rows differ): "
                        "give the same prompt file to go on, or name another folder"
                    )
                raise InputError(
                    f"{self.folder} holds a batch with {name} {shown(found.get(name))}, this one has "
                    f"{shown(ours.get(name))}: give the same settings to go on, or name another folder"
                )


@contextmanager
def locked(folder: Path, name: str, *, wait: bool = False) -> Iterator[bool]:
    """Is the name ours in the block? A kill ends the claim. wait: until it is."""
    from filelock import FileLock, Timeout  # PyTorch needs it too

    place = folder / ".locks"
    place.mkdir(exist_ok=True)
    lock = FileLock(place / f"{name}.lock")
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
