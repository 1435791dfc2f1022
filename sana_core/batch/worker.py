"""Draws shards of a batch, in whichever process and on whichever machine."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from typing import NamedTuple

from .claim import Claim, locked
from .draw import Drawn, DrawRows, Failed
from .output import Output, Shard, explained

Load = Callable[[], DrawRows]
Told = Callable[[Drawn | Failed], object]


class Done(NamedTuple):
    """What became of a shard. drawn, failed: rows. unscored: rows of `drawn` whose scorer failed. busy: another run
    draws it just now.
    """

    drawn: int = 0
    failed: int = 0
    unscored: int = 0
    busy: bool = False


@dataclass(kw_only=True)
class Worker:
    """load: makes what draws, at the first shard. A model or a scorer that cannot be loaded leaves the folder to other
    settings.
    """

    output: Output
    claim: Claim
    load: Load
    draw: DrawRows | None = field(default=None, init=False)

    def __call__(self, shard: Shard, told: Told | None = None) -> Done:
        """Draw what is left of a shard. told: is called with every picture and failure. Raises InputError, and what
        `load` raises.
        """
        if self.draw is None:
            self.draw = self.load()
            self.claim.begin()
        with explained(self.output.folder), locked(self.output.folder, shard.name) as mine:
            return self._drawn(shard, self.draw, told) if mine else Done(busy=True)

    def _drawn(self, shard: Shard, draw: DrawRows, told: Told | None) -> Done:
        self.output.clean(shard)
        rows = self.output.missing(shard)
        if not rows:  # another run has just finished it
            return Done()
        drawn = failed = unscored = 0
        with closing(self.output.write(shard, draw(rows))) as items:
            for item in items:
                if isinstance(item, Failed):
                    failed += 1
                elif is_last(item):
                    drawn += 1
                    unscored += item.record.get("score", 0) is None
                if told is not None:
                    told(item)
        return Done(drawn, failed, unscored)


def is_last(item: Drawn | Failed) -> bool:
    """Is the row of the item done?"""
    return isinstance(item, Failed) or not item.end
