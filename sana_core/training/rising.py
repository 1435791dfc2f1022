"""Does a loss stay far above its beginning? Such a training may have gone astray, though its numbers are finite."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

EARLY = 5  # lines of the log that are the beginning
LONG = 5  # lines in a row that are far above it
TIMES = 3.0


def risen(losses: Sequence[float]) -> tuple[float, float] | None:
    """The mean at the beginning and the mean by now, if each of the last losses is TIMES above that of the beginning.

    losses: of all lines of the log, in order. A loss that is not above 0 at the beginning has no such measure.
    """
    if len(losses) < EARLY + LONG:
        return None
    early, late = fmean(losses[:EARLY]), losses[-LONG:]
    return (early, fmean(late)) if 0 < early * TIMES < min(late) else None
