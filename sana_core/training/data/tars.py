"""WebDataset: tars whose members belong together by name, read in place.

Members are grouped as the webdataset package does: a key is a name up to the first dot behind the last slash. Nothing
is unpacked, links are not followed: of a member only its offset and its size are kept. The package itself reads tars
from front to back; here every picture is reached at once.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

from ...errors import InputError, listed
from .caption_files import SCORES, Beside, read_captions, read_text_json
from .found import Found, Skip
from .picture import ENDINGS, Stored

CONDITIONS = tuple(f"{name}{ending}" for name in ("condition", "conditioning_image") for ending in ENDINGS)
Group = dict[str, Stored]  # members of a key, by what stands behind it


def find(tar: Path, name: str, skip: Skip) -> Iterator[Found]:
    """All pictures of a tar. name: of the tar in the data set."""
    try:
        beside = _beside(tar)
    except InputError as error:
        skip(name, str(error))
        return
    for key, group in members(tar, name, skip).items():
        own = f"{name}/{key}"
        source = next((group[ending[1:]] for ending in ENDINGS if ending[1:] in group), None)
        if source is not None:
            condition = next((group[ending] for ending in CONDITIONS if ending in group), None)
            read = partial(read_captions, key, group.get("txt"), group.get("json"), beside)
            yield Found(own, own, source, read, condition)
        else:
            skip(own, f"it has no PNG, JPEG or WebP picture, only {listed(sorted(group))}")


def members(tar: Path, name: str, skip: Skip) -> dict[str, Group]:
    """Where each member's bytes are, by key. A key with a member that cannot be used is left out."""
    groups: dict[str, Group] = {}
    broken: dict[str, str] = {}
    count = 0
    try:
        with tar.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            for member in _headers(cast(IO[bytes], _Bounded(file, size))):
                count += 1
                folder, slash, base = member.name.removeprefix("./").rpartition("/")
                stem, dot, ending = base.partition(".")
                if not stem or not dot or not member.isreg():  # hidden, no ending, or a folder, a link, a device
                    continue
                key, ending = f"{folder}{slash}{stem}", ending.lower()
                if member.issparse() or not 0 <= member.size <= size - member.offset_data:
                    broken[key] = f"its .{ending} is not whole"
                elif ending in groups.setdefault(key, {}):
                    broken[key] = f"it has several .{ending}: give each picture a name of its own"
                else:
                    groups[key][ending] = Stored(tar, member.offset_data, member.size)
    except OSError as error:
        skip(name, f"it cannot be read ({error.strerror or error})")
    except Exception as error:  # tarfile raises many types for damaged headers
        skip(name, f"it is no whole tar: it is damaged behind {count} members ({error})")
    for key, why in broken.items():
        skip(f"{name}/{key}", why)
    return {key: group for key, group in groups.items() if key not in broken}


def _headers(file: IO[bytes]) -> Iterator[tarfile.TarInfo]:
    with cast(Any, tarfile.open(fileobj=file, mode="r:")) as archive:
        last = -1
        while (member := archive.next()) is not None:
            if member.offset <= last:
                raise tarfile.ReadError("a header points back")
            last = member.offset
            archive.members.clear()  # all are kept otherwise
            yield member


class _Bounded:
    """A file that is never asked for more bytes than it has: what is asked for is taken from memory at once."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self.file, self.size = file, size

    def read(self, size: int = -1) -> bytes:
        left = max(self.size - self.file.tell(), 0)
        return self.file.read(left if size < 0 else min(size, left))

    def seek(self, place: int, whence: int = 0) -> int:
        return self.file.seek(place, whence)

    def tell(self) -> int:
        return self.file.tell()


def _beside(tar: Path) -> list[Beside]:
    """Upstream's captions and scores: files SHARD_ANYTHING.json beside SHARD.tar. Raises InputError."""
    found = []
    for path in sorted(tar.parent.glob("*.json")):
        if path.name.startswith(f"{tar.stem}_"):
            try:
                value = read_text_json(Stored(path))
            except InputError as error:
                raise InputError(f"{path.name} beside it: {error}") from error
            found.append(Beside(path.stem.endswith(SCORES), partial(_given, value)))
    return found


def _given(value: Any) -> Any:
    return value
