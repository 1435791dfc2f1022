"""Numbers in the configurations of files, as different tools write them: 20, 20.0 or "20"."""

from __future__ import annotations

import math
from typing import Any

from ..errors import CheckpointError


def read_number(name: str, value: Any, *, whole: bool = False, least: float = -math.inf, most: float = math.inf) -> Any:
    """An int where `whole`, else a float, between `least` and `most`. name: of the setting, for the message.

    Raises CheckpointError for anything else, such as true, null, NaN or 2.5 where a whole number belongs.
    """
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if math.isfinite(number) and least <= number <= most and not (whole and number != int(number)):
        return int(number) if whole else number
    kind = "a whole number" if whole else "a number"
    bounds = [f"from {least:.12g}"] * math.isfinite(least) + [f"to {most:.12g}"] * math.isfinite(most)
    raise CheckpointError(f"it states {name} = {value!r}, expected {' '.join([kind, *bounds])}")
