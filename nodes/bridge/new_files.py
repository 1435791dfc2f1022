"""Where files go that nodes make: plain names, in the user's own folders."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import folder_paths

from ...sana_core.errors import InputError, printable, shortened
from ...sana_core.sources import NANO

FORBIDDEN = frozenset('/<>:"|?*')  # in names: what some system does not allow, or reads as another place


def plain_name(kind: str, name: str) -> PurePosixPath:
    """A name that a user gives a new file of a folder kind, perhaps in subfolders. Raises InputError for any other."""
    given = PurePosixPath(name.replace("\\", "/"))
    if not given.parts or any(
        part[0] == "." or set(part) & FORBIDDEN or not part.isprintable() for part in given.parts
    ):
        raise InputError(f"{called(name)}: give a plain name in models/{kind}, without a path to it")
    return given


def called(name: str) -> str:
    """How an error about the name begins."""
    return f'the new file is called "{shortened(printable(name))}"'


def own_folder(kind: str) -> Path:
    """The user's own folder of a kind that can be written: not the pack's, and rather one of that name than models/unet
    and the like. Raises InputError.
    """
    folders = [Path(folder) for folder in folder_paths.get_folder_paths(kind)]
    own = [folder for folder in folders if not folder.resolve().is_relative_to(NANO.resolve())]
    for folder in sorted(own, key=lambda folder: folder.name != kind):
        if folder.is_dir() and os.access(folder, os.W_OK):
            return folder
    raise InputError(f"there is no folder models/{kind} that ComfyUI can write: make one")
