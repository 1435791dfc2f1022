"""What a search of a data set finds, before any picture is opened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .caption_files import Weighted
from .picture import Stored

Skip = Callable[[str, str], None]  # (name, why)


@dataclass(frozen=True)
class Found:
    """stem: the name without its ending, by which a condition picture is found. captions: reads them, and raises
    InputError.
    """

    name: str
    stem: str
    source: Stored
    captions: Callable[[], Weighted]
    condition: Stored | None = None
