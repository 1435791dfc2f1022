"""The folder of a training belongs to one process at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import InputError


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Make the folder, and let no other training into it in the block; a kill ends the claim. Raises InputError."""
    from filelock import FileLock, Timeout  # PyTorch needs it too

    lock = FileLock(folder / "training.lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout as error:
        raise InputError(
            f"another training is going on in {folder}: wait for its end, or use another folder"
        ) from error
    except OSError as error:
        said = error.strerror or error
        raise InputError(f"{folder} cannot be the folder of a training ({said}): name another one") from error
    try:
        yield
    finally:
        lock.release()
