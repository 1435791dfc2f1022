"""Find model files below folders, and say of each what it is."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..checkpoint.files import read_checkpoint
from ..checkpoint.folders import SUFFIXES, joined_parts, weight_files
from ..checkpoint.kinds import describe
from ..errors import SanaError, printable, safe_line
from ..shortage import out_of_memory
from .parts import Part, parts_of
from .paths import shown_text

ENDINGS = tuple(f".{suffix}" for suffix in (*SUFFIXES, "gguf", "sft"))
LARGEST_OLD_PICKLE = 2**26  # bytes; a PyTorch file of before 2020 has no list of its tensors and is read whole


@dataclass(frozen=True, kw_only=True)
class Found:
    """A model in a file or a folder. name: relative to `folder`.  size: bytes.  other: what it is, if it is not of
    SANA.  problem: why it cannot be read.
    """

    folder: Path
    name: str
    size: int
    parts: list[Part] = field(default_factory=list)
    other: str | None = None
    problem: str | None = None


def found_models(
    folders: Iterable[Path], device: torch.device, told: Callable[[str], None] | None = None
) -> list[Found]:
    """Every model below these folders, each once. A folder may be the path of a file. told: is told each folder."""
    seen: set[str] = set()
    models = []
    for folder in folders:
        if told is not None:
            told(str(folder))
        base = folder if folder.is_dir() else folder.parent
        unreadable: list[OSError] = []
        models += [look_at(path, base, device) for path in _models(folder, seen, unreadable)]
        models += [_unreadable(error, base) for error in unreadable]
    return models


def _unreadable(error: OSError, base: Path) -> Found:
    name = os.path.relpath(error.filename, base)
    return Found(folder=base, name=name, size=0, problem=f"this folder cannot be read ({error.strerror})")


def look_at(path: Path, base: Path, device: torch.device) -> Found:
    """What a file, or a component's folder, is. Names and shapes of its tensors are read, and nothing is run."""
    name = path.name if path == base else str(path.relative_to(base))
    size = _size(path)
    try:
        if _must_be_read_whole(path):
            old = f"it is in PyTorch's old format and of {size / 1e9:.1f} GB, all of which would have to be read"
            return Found(folder=base, name=name, size=size, problem=old)
        checkpoint = read_checkpoint(path, "meta")
        parts = parts_of(checkpoint, path, device)
    except (SanaError, OSError) as error:
        return Found(folder=base, name=name, size=size, problem=_shortly(str(error), path))
    except Exception as error:  # a report goes on, whatever is in one file
        short = "there is too little memory to read it: close other programs"
        words = short if out_of_memory(error) else f"{type(error).__name__}: {safe_line(str(error))}"
        return Found(folder=base, name=name, size=size, problem=shown_text(words))
    if not parts:
        return Found(folder=base, name=name, size=size, other=describe(checkpoint.tensors))
    return Found(folder=base, name=name, size=size, parts=[_with_short_problem(part, path) for part in parts])


def _with_short_problem(part: Part, path: Path) -> Part:
    if part.problem is None:
        return part
    return Part(kind=part.kind, words=part.words, problem=_shortly(part.problem, path))


def _shortly(message: str, path: Path) -> str:
    """An error about a file that is named already."""
    return shown_text(message.removeprefix(printable(str(path))).removeprefix(": ").removeprefix(" "))


def _models(folder: Path, seen: set[str], unreadable: list[OSError]) -> Iterator[Path]:
    """Component folders and files with weights, in order; the parts of one model once. unreadable: gets the errors of
    folders.
    """
    if not folder.is_dir():
        if _is_new(folder, seen):
            yield folder
        return
    for place, folders, files in os.walk(folder, onerror=unreadable.append, followlinks=True):
        if not _is_new(Path(place), seen):
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        here = Path(place)
        weights = [here / name for name in sorted(files) if name.endswith(ENDINGS) and not name.startswith(".")]
        if "config.json" in files and weights and _component(here):
            yield here
            continue
        for path in weights:
            parts, _ = joined_parts(path)
            if _is_new(path, seen):
                for other in parts:
                    _is_new(other, seen)
                yield path


def _component(folder: Path) -> bool:
    try:
        return bool(weight_files(folder, strict=False))
    except OSError:
        return False


def _is_new(path: Path, seen: set[str]) -> bool:
    real = os.path.realpath(path)
    if real in seen:
        return False
    seen.add(real)
    return True


def _size(path: Path) -> int:
    try:
        files = weight_files(path, strict=False) if path.is_dir() else joined_parts(path)[0]
        return sum(file.stat().st_size for file in files)
    except OSError:
        return 0


def _must_be_read_whole(path: Path) -> bool:
    if path.is_dir() or path.stat().st_size <= LARGEST_OLD_PICKLE:
        return False
    with path.open("rb") as file:
        return file.read(1) == b"\x80" and file.read(8)[7:8] != b"{"
