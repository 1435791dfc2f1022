"""What is fuzzed: a parser, and small valid inputs for it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .mutate import mutated

Files = dict[str, bytes]  # content by name


@dataclass(frozen=True, kw_only=True)
class Target:
    """seeds: valid inputs, each the files of a folder.  read: what a user would do with that folder.  errors: what may
    come out besides SanaError.  room: bytes that a case may take besides twice its files.  reserves: it may ask for
    memory that it does not use, as PyTorch does for the older kind of its files.  seconds: of computing.
    """

    name: str
    seeds: Callable[[], list[Files]]
    read: Callable[[Path], None]
    errors: tuple[type[Exception], ...] = ()
    room: int = 32 << 20
    reserves: bool = False
    seconds: float = 2.0

    def case(self, seed: int, number: int) -> Files:
        """The files of a case, always the same ones."""
        generator = random.Random(f"{seed}/{self.name}/{number}")
        files = dict(generator.choice(self.seeds()))
        for _ in range(generator.choice((1, 1, 1, 2, 3))):
            name = generator.choice(sorted(files))
            files[name] = mutated(generator, name, files[name])
        return files


def write(files: Files, folder: Path) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
