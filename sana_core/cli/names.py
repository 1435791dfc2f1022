"""Where pictures are saved: names that are checked before anything is drawn, and numbers that overwrite nothing."""

from __future__ import annotations

import logging
import re
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ..errors import InputError
from ..pictures.files import save_png

log = logging.getLogger("sana")


@dataclass
class Output:
    """path: as the user named it. number: of the next picture, or None for the one picture under that very name."""

    path: Path
    number: int | None

    def save(self, picture: Image.Image, record: dict[str, Any]) -> Path:
        """Write the next picture. Returns its path."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.number is None:
            if self.path.exists():
                log.info("%s was there and is replaced", self.path)
            save_png(picture, self.path, record)
            return self.path
        path = self._reserve()
        try:
            save_png(picture, path, record)
        except BaseException:
            with suppress(OSError):
                path.unlink()
            raise
        return path

    def _reserve(self) -> Path:
        """The next name that is free, taken by an empty file: other processes may be numbering pictures, too."""
        while True:
            path = _numbered(self.path, self.number or 1)
            self.number = (self.number or 1) + 1
            with suppress(FileExistsError):
                path.touch(exist_ok=False)
                return path


def output(path: Path | None, default: Path, *, alone: bool, count: int) -> Output:
    """Names for `count` pictures. path None: the default name, which gets a number if it is taken. alone: one picture,
    under the name itself; others are numbered from the highest number in the folder on.

    Raises InputError if a name cannot be written. Changes nothing.
    """
    chosen = path or default
    if alone and (path is not None or not default.exists()):
        _check(chosen)
        return Output(chosen, None)
    highest = _highest_number(chosen)
    _check(_numbered(chosen, highest + count))
    return Output(chosen, highest + 1)


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.stem}-{number:04d}{path.suffix}")


def _highest_number(path: Path) -> int:
    """Of the pictures that are numbered after `path`; 0 if there is none, or no such folder that can be read."""
    pattern = re.compile(rf"{re.escape(path.stem)}-(\d{{4,9}}){re.escape(path.suffix)}")
    names: list[str] = []
    with suppress(OSError):
        names = [found.name for found in path.parent.iterdir()]
    return max((int(match[1]) for match in map(pattern.fullmatch, names) if match), default=0)


def _check(path: Path) -> None:
    """Raise InputError if no PNG file could be written there."""
    if path.suffix.lower() != ".png":
        raise InputError(f"{path}: pictures are written as PNG, name a .png file with --output")
    try:
        place = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
        for name in path.absolute().relative_to(place).parts:  # what is still to be made: is one of the names too long?
            with suppress(FileNotFoundError):
                (place / name).lstat()
        if place == path.absolute():
            path.open("r+b").close()
        else:
            tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror}): name with --output a PNG file in a folder that you can "
            "write to"
        ) from error
