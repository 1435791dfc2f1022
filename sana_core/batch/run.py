"""A batch in a folder: what is left of it is drawn, shard by shard."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import InputError
from ..prompts.values import shown
from .draw import Drawn, DrawRows, Failed
from .output import Output, Shard, explained, whole
from .rows import Row

RECORD = "batch.json"
ROWS_PER_SHARD = 1000
DIGEST = "digest of the rows"

Load = Callable[[], DrawRows]
Told = Callable[[Drawn | Failed], object]


class Done(NamedTuple):
    """What became of a shard. drawn, failed: rows. busy: another run draws it just now."""

    drawn: int = 0
    failed: int = 0
    busy: bool = False


class State(NamedTuple):
    """What there is to do in a folder. shards, rows: of this run's share. finished: rows of it that are there. failed:
    those that an earlier run could not draw, and that are not tried again.
    """

    shards: int
    rows: int
    finished: int
    failed: int = 0


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows and the folder that they are drawn into. It can be pickled.

    settings: whatever else changes the pictures, such as the model; names and values as JSON takes them. A folder
    takes no pictures of other settings. share: (i, n) for the shards i, i + n, ...
    """

    rows: Sequence[Row]
    output: Output
    rows_per_shard: int = ROWS_PER_SHARD
    settings: Mapping[str, Any] = field(default_factory=dict)
    share: tuple[int, int] = (0, 1)

    def __post_init__(self) -> None:
        if self.rows_per_shard < 1:
            raise InputError(f"rows per shard are {self.rows_per_shard}, expected at least 1")
        index, count = self.share
        if not 0 <= index < count:
            raise InputError(f"shard {index}/{count}: expected i/n with i from 0 to n - 1")

    @property
    def shards(self) -> list[Shard]:
        """All of this run's share."""
        size, (index, count) = self.rows_per_shard, self.share
        starts = range(0, len(self.rows), size)
        return [Shard(number, self.rows[starts[number] :][:size]) for number in range(index, len(starts), count)]

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What has to be the same to go on in a folder."""
        rows = hashlib.sha256()
        for row in self.rows:
            rows.update(json.dumps(row.entry(), sort_keys=True).encode() + b"\n")
        digest = {"rows": len(self.rows), DIGEST: rows.hexdigest()}
        return {**self.settings, "rows_per_shard": self.rows_per_shard, **self.output.settings, **digest}

    def state(self) -> State:
        shards = self.shards
        total = sum(len(shard.rows) for shard in shards)
        failed = sum(self.output.failed(shard) for shard in shards)
        missing = sum(len(self.output.missing(shard)) for shard in shards)
        return State(len(shards), total, total - missing - failed, failed)

    def pending(self) -> list[Shard]:
        return [shard for shard in self.shards if self.output.missing(shard)]

    def check(self) -> None:
        """Raise InputError if the folder holds a batch of other settings. Changes nothing."""
        self.output.check()
        path = self.output.folder / RECORD
        with explained(self.output.folder):
            if path.exists():
                self._compare(path)

    def make_folder(self) -> None:
        """Raises InputError if it cannot be written."""
        with explained(self.output.folder):
            self.output.folder.mkdir(parents=True, exist_ok=True)
            with locked(self.output.folder, "batch", wait=True):
                pass

    def begin(self) -> None:
        """Note what the folder is for. Raises InputError as `check`, and if it cannot be written."""
        self.make_folder()
        folder = self.output.folder
        with explained(folder), locked(folder, "batch", wait=True):
            path = folder / RECORD
            if path.exists():
                self._compare(path)
            else:
                with whole(path) as file:
                    file.write(json.dumps(self.fingerprint, indent=1).encode() + b"\n")

    def _compare(self, path: Path) -> None:
        try:
            found = json.loads(path.read_text("utf-8"))
            if not isinstance(found, dict):
                raise ValueError("it holds no object")
        except ValueError as error:
            raise InputError(f"{path} is not the record of a batch ({error}): name another folder") from error
        ours = json.loads(json.dumps(self.fingerprint))
        for name in sorted({**ours, **found}, key=lambda name: name == DIGEST):  # what has a name of its own first
            if found.get(name) != ours.get(name):
                if name == DIGEST:
                    raise InputError(
                        f"{path.parent} holds a batch of other rows (prompts, ids, seeds or settings of rows differ): "
                        "give the same prompt file to go on, or name another folder"
                    )
                raise InputError(
                    f"{path.parent} holds a batch with {name} {shown(found.get(name))}, this one has "
                    f"{shown(ours.get(name))}: give the same settings to go on, or name another folder"
                )


def draw_batch(batch: Batch, load: Load, told: Told | None = None) -> Iterator[Done]:
    """Draw what is left of a batch, and yield what became of each shard. load: makes what draws, if there is work.

    told: is called with every picture and failure. Raises InputError.
    """
    batch.check()
    batch.make_folder()
    pending = batch.pending()
    draw = load() if pending else None
    batch.begin()  # a model or a scorer that cannot be loaded leaves the folder to other settings
    if draw is None:
        return
    for shard in pending:
        yield draw_shard(batch.output, shard, draw, told)


def draw_shard(output: Output, shard: Shard, draw: DrawRows, told: Told | None = None) -> Done:
    """Draw what is left of a shard. Raises InputError."""
    drawn = failed = 0
    with explained(output.folder), locked(output.folder, shard.name) as mine:
        if not mine:
            return Done(busy=True)
        output.clean(shard)
        rows = output.missing(shard)
        if not rows:  # another run has just finished it
            return Done()
        with closing(output.write(shard, draw(rows))) as items:
            for item in items:
                drawn += isinstance(item, Drawn) and not item.end
                failed += isinstance(item, Failed)
                if told is not None:
                    told(item)
    return Done(drawn, failed)


@contextmanager
def locked(folder: Path, name: str, *, wait: bool = False) -> Iterator[bool]:
    """Is the name ours in the block? A kill ends the claim. wait: until it is."""
    from filelock import FileLock, Timeout  # PyTorch needs it too

    place = folder / ".locks"
    place.mkdir(exist_ok=True)
    lock = FileLock(place / f"{name}.lock")
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
