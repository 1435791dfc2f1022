"""What the command line writes: lines on stdout and stderr, JSON, the library's log.

A stream may be missing (pythonw, a service), closed by its reader, or of a code page without some letters. None of
that ends a run.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from ..errors import safe_line


def say(text: str) -> None:
    """A line on stdout."""
    write(sys.stdout, f"{text}\n")


def say_json(values: Mapping[str, Any]) -> None:
    """A JSON object as a line on stdout."""
    say(json.dumps(values))


def tell(text: str) -> None:
    """A line on stderr: without control characters, shortened in the middle if it is very long."""
    write(sys.stderr, f"{safe_line(text)}\n")


def fail(message: str, *, as_json: bool) -> None:
    """Why a command ends: a line on stderr, or a JSON object on stdout."""
    if as_json:
        say_json({"error": safe_line(message)})
    else:
        tell(f"sana: error: {message}")


def is_terminal(stream: Any) -> bool:
    """Does a person sit at the other end?"""
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


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
def log_on_stderr(level: int, wanted: Callable[[str], bool] | None = None) -> Iterator[None]:
    """What the library logs from this level on, each message once. wanted: shall a message be told?"""
    log, handler = logging.getLogger("sana"), _Lines(level, wanted)
    before = log.level
    log.addHandler(handler)
    log.setLevel(level)
    try:
        yield
    finally:
        log.setLevel(before)
        log.removeHandler(handler)


class _Lines(logging.Handler):
    def __init__(self, level: int, wanted: Callable[[str], bool] | None) -> None:
        super().__init__(level)
        self.wanted = wanted
        self.shown: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message not in self.shown:
            self.shown.add(message)
            if self.wanted is None or self.wanted(message):
                tell(f"sana: {message}")
