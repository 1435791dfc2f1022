"""A large file at a name that a user has given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from ..errors import InputError
from ..whole_files import explained, whole_file


@contextmanager
def new_file(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Where to write the file, as `whole_file` gives it. Raises InputError as `check_target`, and for every OSError and
    SafetensorError of the block.
    """
    check_target(path, overwrite)
    with explained(path, SafetensorError), whole_file(path, path.name) as partial:  # its writer has no OSError
        yield partial
        check_target(path, overwrite)  # some minutes have passed


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
