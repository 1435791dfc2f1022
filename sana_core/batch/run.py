"""A batch in a folder: what is left of it is drawn, shard by shard."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..errors import InputError
from .claim import DIGEST, Claim, locked
from .output import Output, Shard, explained
from .rows import Row
from .worker import Done, Load, Told, Worker

ROWS_PER_SHARD = 1000


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

    @property
    def claim(self) -> Claim:
        """What its folder is for."""
        return Claim(folder=self.output.folder, fingerprint=self.fingerprint)

    def check(self) -> None:
        """Raise InputError if the folder holds a batch of other settings, or files that are of no batch. Changes
        nothing.
        """
        self.output.check()
        with explained(self.output.folder):
            there = next((path for shard in self.shards for path in self.output.files(shard) if path.exists()), None)
        if there is not None and not self.claim.path.exists():
            raise InputError(
                f"{there} is there, but no {self.claim.path.name} that says which batch it is of: name another folder, "
                "or move the file away"
            )
        self.claim.check()

    def make_folder(self) -> None:
        """Raises InputError if it cannot be written."""
        with explained(self.output.folder):
            self.output.folder.mkdir(parents=True, exist_ok=True)
            with locked(self.output.folder, "batch", wait=True):
                pass

    def prepared(self) -> list[Shard]:
        """What is left to be drawn, with the folder ready for it. Raises InputError as `check` and `make_folder`."""
        self.check()
        self.make_folder()
        pending = self.pending()
        if not pending:
            self.claim.begin()
        return pending

    def worker(self, load: Load) -> Worker:
        return Worker(output=self.output, claim=self.claim, load=load)


def draw_batch(batch: Batch, load: Load, told: Told | None = None) -> Iterator[Done]:
    """Draw what is left of a batch, and yield what became of each shard. load: makes what draws, if there is work.

    told: is called with every picture and failure. Raises InputError.
    """
    worker = batch.worker(load)
    for shard in batch.prepared():
        yield worker(shard, told)
