"""The pictures that are measured: those of a folder or a tar, decoded one after another, with their captions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError, safe_line
from ..training.data import folder, tars
from ..training.data.found import Found
from ..training.data.picture import decoded

Progress = Callable[[int, int], None]


@dataclass
class Pictures:
    """found: what was seen, in the order of names. skipped: why, by the name of what cannot be used. used: how many
    pictures `decode` gave, the last time it ran.
    """

    path: Path
    found: tuple[Found, ...]
    skipped: dict[str, str] = field(default_factory=dict)
    used: int = 0

    def decode(self, progress: Progress | None = None) -> Iterator[tuple[Found, Tensor]]:
        """Each picture with its pixels, (3, H, W) of uint8: RGB, upright, what is transparent on white.

        One that cannot be decoded is skipped. Raises InputError if none is left.
        """
        self.used = 0
        for done, item in enumerate(self.found, start=1):
            try:
                picture = decoded(item.source.read())
            except InputError as error:
                self.skip(item.name, str(error))
            else:
                self.used += 1
                yield item, torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()
            if progress is not None:
                progress(done, len(self.found))
        if not self.used:
            name, why = next(iter(self.skipped.items()))
            raise InputError(f"{self.path} has no picture that can be used: {name}: {why}")

    def skip(self, name: str, why: str) -> None:
        self.skipped.setdefault(safe_line(name), safe_line(why))


def find_pictures(path: Path) -> Pictures:
    """The pictures of a folder, with all folders and tars in it, or of one tar of WebDataset. Raises InputError."""
    pictures = Pictures(path, ())
    if path.is_dir():
        found = folder.find(path, pictures.skip)
    elif path.is_file() and path.name.lower().endswith(".tar"):
        found = tars.find(path, path.name, pictures.skip)
    elif path.exists():
        raise InputError(f"{path} is no folder of pictures: name a folder, or a .tar of WebDataset")
    else:
        raise InputError(f"{path} is missing: name a folder of pictures, or a .tar of WebDataset")
    pictures.found = tuple(sorted(found, key=lambda item: item.name))
    if not pictures.found:
        why = "".join(f" ({name}: {reason})" for name, reason in list(pictures.skipped.items())[:1])
        raise InputError(f"{path} has no pictures: expected PNG, JPEG or WebP files, or tars with them{why}")
    return pictures


def first_caption(item: Found) -> str | None:
    """The first of its captions; None if it has none. Raises InputError for captions that cannot be read."""
    captions = item.captions()
    return captions[0][0] if captions else None
