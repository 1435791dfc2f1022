"""Where pictures are saved.

One picture gets the name as it is. Several pictures of a run get numbers: apple-0001.png and so on, after those that
are there. `{seed}` in a name stands for the seed; such a name has a number if a batch shares it. A name that is taken
gets a number, too: a file is replaced only with --overwrite.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from PIL import Image, features

from ..errors import InputError
from ..pictures.saving import FORMATS, save_picture

SEED = "{seed}"
PLACEHOLDER = re.compile(r"\{[a-zA-Z_]+\}")
DEFAULT = Path("sana_{seed}.png")


@dataclass(kw_only=True)
class Output:
    """path: as the user named it. several: are several pictures drawn under this name? quality: of JPEG and WebP.
    avoided: files that no picture replaces, by their absolute paths.
    """

    path: Path = DEFAULT
    several: bool = False
    overwrite: bool = False
    quality: int | None = None
    avoided: set[Path] = field(default_factory=set)
    _numbers: dict[Path, Iterator[int]] = field(default_factory=dict)

    def save(self, picture: Image.Image, record: dict[str, Any], batch: int = 1) -> Path:
        """Write the next picture, one of `batch` with this seed. Returns its path."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        path = next(path for path in self._names(record["seed"], batch) if self._take(path))
        try:
            save_picture(picture, path, record, self.quality)
        except BaseException:
            if not self.overwrite:
                with suppress(OSError):
                    path.unlink()
            raise
        self.avoided.add(path.absolute())
        return path

    def check(self, seeds: Sequence[int], pictures: int) -> None:
        """Raise InputError if a picture could not be written. Changes nothing."""
        if self.path.suffix.lower() not in FORMATS:
            raise InputError(
                f"{self.path}: --output names a picture by its ending, expected one of {', '.join(FORMATS)}"
            )
        if unknown := [found for found in PLACEHOLDER.findall(self.path.name) if found != SEED]:
            raise InputError(f"{self.path}: {unknown[0]} stands for nothing, only {SEED} does: leave it out")
        if self.path.suffix.lower() == ".webp" and not features.check("webp"):
            raise InputError(f"{self.path}: this Pillow writes no WebP: choose .png or .jpg, or install another Pillow")
        if self.quality is not None and self.path.suffix.lower() == ".png":
            raise InputError("--quality is for JPEG and WebP; a PNG keeps every pixel: leave it out")
        if taken := [seed for seed in seeds if _seeded(self.path, seed).absolute() in self.avoided]:
            name = _seeded(self.path, taken[0])
            raise InputError(f"{name} is the picture itself: name another file with --preview or --scores")
        plain = _seeded(self.path, max(seeds, key=lambda seed: len(str(seed)), default=2**32))
        if not self.several or SEED in self.path.name:
            check_place(plain)
        if self.several or plain.exists():
            check_place(numbered(plain, highest_number(plain) + pictures))

    def _names(self, seed: int, batch: int) -> Iterator[Path]:
        path = _seeded(self.path, seed)
        if not self.several or (SEED in self.path.name and batch == 1):
            yield path
        if path not in self._numbers:
            self._numbers[path] = count(1 if self.overwrite else highest_number(path) + 1)
        for number in self._numbers[path]:
            yield numbered(path, number)

    def _take(self, path: Path) -> bool:
        """May the picture have this name?"""
        if path.absolute() in self.avoided:
            return False
        return self.overwrite or take(path)


def take(path: Path) -> bool:
    """Is the name free? Then an empty file takes it: other processes may be choosing names, too."""
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _seeded(path: Path, seed: int) -> Path:
    return path.with_name(path.name.replace(SEED, str(seed)))


def numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.stem}-{number:04d}{path.suffix}")


def highest_number(path: Path) -> int:
    """Of the files that are numbered after `path`; 0 if there is none, or no such folder that can be read."""
    pattern = re.compile(rf"{re.escape(path.stem)}-(\d{{4,9}}){re.escape(path.suffix)}")
    names: list[str] = []
    with suppress(OSError):
        names = [found.name for found in path.parent.iterdir()]
    return max((int(match[1]) for match in map(pattern.fullmatch, names) if match), default=0)


def check_place(path: Path, option: str = "--output") -> None:
    """Raise InputError if no file could be written there. option: names the file."""
    try:
        if path.is_dir():
            raise IsADirectoryError(None, "Is a directory")
        whole = path.absolute()
        place = next(place for place in whole.parents if place.exists())
        for name in whole.relative_to(place).parts:  # what is still to be made: is one of the names too long?
            with suppress(FileNotFoundError, NotADirectoryError):
                (place / name).lstat()
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror}): name with {option} a file in a folder that you can write to"
        ) from error
