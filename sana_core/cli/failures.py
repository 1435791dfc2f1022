"""Errors in the words of the command line."""

from __future__ import annotations

from ..errors import SanaError
from ..shortage import out_of_memory


def explained(error: Exception, memory: str) -> str | None:
    """What to say of an error; None for one that is a mistake of the program. memory: what helps if it ran out."""
    if out_of_memory(error):
        first_line = str(error).partition("\n")[0] or type(error).__name__
        return f"out of memory ({first_line}): {memory}"
    return str(error) if isinstance(error, (SanaError, OSError)) else None
