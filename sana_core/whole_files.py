"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import glob
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import InputError

PARTIAL = ".partial"


@contextmanager
def whole_file(path: Path, name: str = "", *, lasting: bool = True) -> Iterator[Path]:
    """Where to write the file: NAME.*.partial beside `path`, which takes that name at the end of the block.

    An error or Ctrl-C removes it, and what was there before stays. A link stays one: what it points to is written.
    lasting: it is also there after a crash of the machine, which takes time. Raises OSError.
    """
    path = Path(os.path.realpath(path))
    partial = path.with_name(f"{name}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        partial.touch(exist_ok=False)
        yield partial
        if lasting:
            with partial.open("r+b") as file:
                os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)  # nothing, once it has its name


def remove_partial(folder: Path, name: str) -> None:
    """Remove what a killed run has left of the files NAME.*: it must be clear that no other run writes them."""
    for path in folder.glob(f"{glob.escape(name)}.*{PARTIAL}"):
        with suppress(OSError):
            path.unlink()


def sync_folder(folder: Path) -> None:
    """Names in a folder reach the disk. Systems that cannot do that do without."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def explained(
    place: Path | str,
    *others: type[Exception],
    full: str = "free some, or name a file on another disk",
    other: str = "name a file in another folder or on another disk",
) -> Iterator[None]:
    """In the block errors of the disk, and `others`, are raised as InputError. full, other: what to do about them."""
    try:
        yield
    except (OSError, *others) as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(f"{place}: no space is left on its disk: {full}") from error
        said = getattr(error, "strerror", None) or error
        raise InputError(f"{place} cannot be written ({said}): {other}") from error
