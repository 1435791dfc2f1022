"""Files that are there whole or not at all, also after a crash of the machine."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

PARTIAL = ".partial"


@contextmanager
def whole(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes its name at the end of the block. An error removes it. Raises OSError."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)  # nothing, once it has its name


def sync_folder(folder: Path) -> None:
    """Names in a folder reach the disk. Systems that cannot do that do without."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def remove_partial(folder: Path, name: str) -> None:
    """Remove what a killed run has left of the files name.*: it must be clear that no other run writes them."""
    for path in folder.glob(f".{name}.*{PARTIAL}"):
        with suppress(OSError):
            path.unlink()
