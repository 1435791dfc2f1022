"""A large file that is there whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from ..errors import InputError

SUFFIX = ".partial"


@contextmanager
def new_file(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Where to write the file: one of a name of its own beside `path`, which takes that name at the end of the block.

    An error or Ctrl-C removes it. A link stays one: what it points to is written. Raises InputError as `check_target`,
    and for every OSError and SafetensorError of the block.
    """
    check_target(path, overwrite)
    path = Path(os.path.realpath(path))
    partial = Path(f"{path}.{secrets.token_hex(4)}{SUFFIX}")
    try:
        partial.touch(exist_ok=False)
        yield partial
        with partial.open("r+b") as file:
            os.fsync(file.fileno())
        check_target(path, overwrite)  # some minutes have passed
        os.replace(partial, path)
    except OSError as error:
        raise _cannot_write(path, error) from error
    except SafetensorError as error:  # its writer has no OSError
        raise InputError(
            f"{path} cannot be written ({error}): name a file on another disk, or free some space"
        ) from error
    finally:
        partial.unlink(missing_ok=True)  # nothing, once it has its name


def check_target(path: Path, overwrite: bool = False) -> None:
    """Raise InputError if no file can be written there: its folder is missing, or it is there already."""
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}: make it first")
    if path.is_dir():
        raise InputError(f"{path} is a folder, expected the name of a file")
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is a device, expected the name of a file")
    if path.exists() and not overwrite:
        raise InputError(f"{path} is there already: name another file, or overwrite it (--overwrite)")


def _cannot_write(path: Path, error: OSError) -> InputError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return InputError(f"{path}: no space is left on its disk: free some, or name a file on another disk")
    return InputError(f"{path} cannot be written ({error.strerror or error}): name a file in another folder")
