"""How far a batch is: pictures per second and the time left, on a terminal as a bar, in log files now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ..batch.draw import Drawn, Failed
from ..batch.worker import is_last
from .output import is_terminal, tell
from .progress import Show, bar

EVERY = 30.0  # seconds between two lines of a log file


class Pace:
    """show: moves a bar. in_lines: a line now and then in its place."""

    def __init__(self, total: int, show: Show | None, *, in_lines: bool) -> None:
        self.total, self.show, self.in_lines, self.done = total, show, in_lines, 0
        self.begin: tuple[float, int] | None = None  # behind loading and the texts
        self.told = 0.0

    def __call__(self, item: Drawn | Failed | int) -> None:
        """A picture, a failure, or a number of rows. Of several pictures of a row the last one counts."""
        if isinstance(item, Failed):
            tell(f"sana: {item.row.where or item.row.id}: {item.reason}")
        self.add(item if isinstance(item, int) else is_last(item))

    def add(self, rows: int) -> None:
        """So many more rows are done."""
        now = time.monotonic()
        self.done += rows
        if self.begin is None:
            self.begin, self.told = (now, self.done), now
        if self.show is not None:
            self.show(self.done, self.total)
        elif self.in_lines and now - self.told > EVERY:
            self.told = now
            start, before = self.begin
            speed = (self.done - before) / (now - start)
            left = f", {_duration((self.total - self.done) / speed)} left" if speed else ""
            tell(f"{self.done}/{self.total}: {speed:.3g} pictures/s{left}")


@contextmanager
def pace(total: int, *, quiet: bool) -> Iterator[Pace]:
    """Shows how fast rows are done."""
    with bar("pictures", quiet=quiet) as show:
        yield Pace(total, show, in_lines=not quiet and not is_terminal(sys.stderr))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
