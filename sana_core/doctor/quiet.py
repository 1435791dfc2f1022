"""The library's log, kept instead of shown."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def heard(level: int = logging.WARNING) -> Iterator[list[str]]:
    """What the library logs from this level on, each message once. Nothing of it is shown."""
    messages: list[str] = []

    def keep(record: logging.LogRecord) -> bool:
        if record.levelno >= level and record.getMessage() not in messages:
            messages.append(record.getMessage())
        return False

    log = logging.getLogger("sana")
    log.addFilter(keep)
    try:
        yield messages
    finally:
        log.removeFilter(keep)
