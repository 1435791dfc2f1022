"""A progress bar on a terminal, with the speed and the time left. Log files get none."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .output import is_terminal, write

Show = Callable[[int, int], None]  # how much is done, and of how much


@contextmanager
def bar(label: str, *, quiet: bool) -> Iterator[Show | None]:
    """What moves the bar. None where there is no terminal to draw it on, or with `quiet`."""
    if quiet or not is_terminal(sys.stderr):
        yield None
        return
    from tqdm import tqdm

    with tqdm(desc=label, total=0, file=_Safe(), leave=False, dynamic_ncols=True) as shown:

        def show(done: int, total: int) -> None:
            shown.total = total
            shown.update(done - shown.n)

        yield show


class _Safe:
    """stderr, which may be closed at any time."""

    def write(self, text: str) -> None:
        write(sys.stderr, text)

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)
