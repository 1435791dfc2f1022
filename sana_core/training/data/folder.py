"""Folders of pictures, with captions in files beside them; and what else lies in them: tables and tars.

Names are sorted by code point, so a data set is the same on every machine. Names that begin with a dot are left out.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from . import metadata, tars
from .caption_files import SCORES, Beside, read_captions, read_text_json
from .found import Found, Skip
from .picture import ENDINGS, Stored

OTHERS = (".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jxl", ".tif", ".tiff")  # pictures that are not read
PACKED = (".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".zip")


def find(root: Path, skip: Skip, leave_out: Path | None = None) -> Iterator[Found]:
    """All pictures below a folder. leave_out: a folder that is not looked into."""
    for prefix, folder, files in walk(root, skip, leave_out, stop=metadata.is_table):
        if metadata.is_table(folder, files):
            pictures = {name for name in files if os.path.splitext(name)[1].lower() in ENDINGS}
            yield from metadata.find(folder, prefix, skip, pictures)
            continue
        yield from _pictures(prefix, folder, files, skip)
        for name in files:
            if name.lower().endswith(".tar"):
                yield from tars.find(folder / name, prefix + name, skip)


def find_plain(root: Path, skip: Skip) -> dict[str, Stored]:
    """Pictures below a folder by their names without endings: condition pictures."""
    found: dict[str, Stored] = {}
    for prefix, folder, files in walk(root, skip):
        for name in files:
            stem, ending = os.path.splitext(name)
            if ending.lower() in ENDINGS:
                found.setdefault(prefix + stem, Stored(folder / name))
    return found


def walk(
    root: Path,
    skip: Skip,
    leave_out: Path | None = None,
    stop: Callable[[Path, Sequence[str]], bool] = lambda folder, files: False,
) -> Iterator[tuple[str, Path, list[str]]]:
    """(path from the root with "/" at its end, folder, names of its files) of every folder, each once.

    stop: is a folder with these files not looked into further?
    """
    seen = set() if leave_out is None else {os.path.realpath(leave_out)}
    waiting = [("", root)]
    while waiting:
        prefix, folder = waiting.pop()
        real = os.path.realpath(folder)
        if real in seen:
            continue
        seen.add(real)
        try:
            folders, files = _listing(folder)
        except OSError as error:
            skip(prefix or ".", f"the folder cannot be read ({error.strerror})")
            continue
        yield prefix, folder, files
        if not stop(folder, files):
            waiting += [(f"{prefix}{name}/", folder / name) for name in reversed(folders)]


def _listing(folder: Path) -> tuple[list[str], list[str]]:
    """Names of folders and of files. Raises OSError."""
    folders, files = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith((".", "__MACOSX")):
                continue
            if os.path.isdir(entry.path):  # unlike the methods of `entry`, without an error for a link to itself
                folders.append(entry.name)
            elif os.path.isfile(entry.path):
                files.append(entry.name)
    return sorted(folders), sorted(files)


def _pictures(prefix: str, folder: Path, files: list[str], skip: Skip) -> Iterator[Found]:
    parts = [(name, *os.path.splitext(name)) for name in files]
    pictures = [(name, stem) for name, stem, ending in parts if ending.lower() in ENDINGS]
    texts = {stem: Stored(folder / name) for name, stem, ending in parts if ending.lower() == ".txt"}
    jsons = {stem: Stored(folder / name) for name, stem, ending in parts if ending.lower() == ".json"}
    beside = _beside(jsons, {stem for _, stem in pictures})
    for name, stem in pictures:
        read = partial(read_captions, stem, texts.get(stem), jsons.get(stem), beside.get(stem, ()))
        yield Found(prefix + name, prefix + stem, Stored(folder / name), read)
    for name in files:
        if name.lower().endswith(OTHERS):
            skip(prefix + name, "pictures of this kind are not read: save it as PNG, JPEG or WebP")
        elif name.lower().endswith(PACKED):
            skip(prefix + name, "packed files are not read: unpack it, or make it a .tar")


def _beside(jsons: Mapping[str, Stored], pictures: set[str]) -> dict[str, list[Beside]]:
    """By picture: the files NAME_ANYTHING.json. One belongs to the picture with the longest name."""
    found: dict[str, list[Beside]] = {}
    for stem, source in jsons.items():
        if stem in pictures:
            continue
        owner = stem
        while owner and owner not in pictures:
            owner = owner.rpartition("_")[0]
        if owner:
            found.setdefault(owner, []).append(Beside(stem.endswith(SCORES), partial(read_text_json, source)))
    return found
