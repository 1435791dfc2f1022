"""What the command line writes: lines on stdout and stderr, the library's log, a progress bar.

A stream may be missing (pythonw, a service), closed by its reader, or of a code page without some letters. None of
that ends a run.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ..errors import safe_line
from ..samplers.types import StepCallback

BAR = 30  # characters


def say(text: str) -> None:
    """A line on stdout."""
    write(sys.stdout, f"{text}\n")


def tell(text: str) -> None:
    """A line on stderr: without control characters, shortened in the middle if it is very long."""
    write(sys.stderr, f"{safe_line(text)}\n")


def write(stream: Any, text: str) -> None:
    """Write to a text stream, or to None; letters that its encoding lacks become escapes."""
    if stream is None:
        return
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except BrokenPipeError:  # the reader has gone: let nothing fail when Python flushes the stream at its end
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except (OSError, ValueError):  # a full disk, a closed stream
        pass


@contextmanager
def log_on_stderr(level: int) -> Iterator[None]:
    """What the library logs from this level on, each message once."""
    log, handler = logging.getLogger("sana"), _Lines(level)
    before = log.level
    log.addHandler(handler)
    log.setLevel(level)
    try:
        yield
    finally:
        log.setLevel(before)
        log.removeHandler(handler)


class _Lines(logging.Handler):
    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.shown: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message not in self.shown:
            self.shown.add(message)
            tell(f"sana: {message}")


def progress_bar(label: str, total: int) -> StepCallback:
    """A sampler's callback that draws a bar on stderr."""
    return lambda index, *_: show_bar(label, index + 1, total)


def show_bar(label: str, done: int, total: int) -> None:
    """Draw a bar on stderr over the last one."""
    filled = BAR * done // total
    end = "\n" if done == total else ""
    write(sys.stderr, f"\r{label} [{'#' * filled}{'.' * (BAR - filled)}] {done}/{total}{end}")
