"""How the program ends by Ctrl-C and by other signals: quietly, whenever they come.

`python -m sana_core` imports the package first, which takes seconds because of PyTorch. From the import of this module
on, Ctrl-C ends such a program at once. `__main__.py` gives Ctrl-C its usual meaning back when the command line begins.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

INTERRUPTED = 130  # as shells report a program that Ctrl-C ended


class Ended(KeyboardInterrupt):
    """A signal that asks the program to end. code: its exit code."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.code = 128 + number


def end_at_once(*_: object) -> NoReturn:
    """A handler for Ctrl-C while there is nothing to tidy up."""
    os._exit(INTERRUPTED)


def replace_handler(old: Any, new: Any) -> None:
    """For Ctrl-C. Where a program started in the background ignores it, that stays so."""
    if signal.getsignal(signal.SIGINT) is old:
        signal.signal(signal.SIGINT, new)


@contextmanager
def handlers_kept() -> Iterator[None]:
    """For a block in which a library sets handlers of its own: those from before are back afterwards."""
    here = threading.current_thread() is threading.main_thread()
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if here and hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # None: it was not set from Python, and cannot be set back
                signal.signal(number, handler)


@contextmanager
def signals_as_errors() -> Iterator[None]:
    """In the block SIGTERM and SIGHUP raise `Ended`, so that unfinished files are removed. Ignored signals stay so."""
    here = threading.current_thread() is threading.main_thread()
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if here and hasattr(signal, name)]
    numbers = [number for number in numbers if signal.getsignal(number) == signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, _raise)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def _raise(number: int, _: object) -> NoReturn:
    raise Ended(number)


# Python names the program "-m" as long as it looks for the module.
if sys.argv[:1] == ["-m"] and {str(__package__), f"-m{__package__}"} & set(sys.orig_argv):
    replace_handler(signal.default_int_handler, end_at_once)
