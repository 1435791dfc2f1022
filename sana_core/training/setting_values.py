"""Single values of settings files: their kinds, their check, and what they are called in messages."""

from __future__ import annotations

import math
import re
from typing import Any

from ..errors import InputError, printable, shortened

WHOLE, NUMBER, TRUTH, TEXT, NUMBERS = "whole", "number", "truth", "text", "numbers"
WORDS = {
    WHOLE: "a whole number",
    NUMBER: "a finite number",
    TRUTH: "true or false",
    TEXT: "a text",
    NUMBERS: "one finite number or a list of them",
}
LARGEST = 1 << 64
NUMERAL = re.compile(r"[+-]?[0-9.]{1,40}(e[+-]?[0-9]{1,4})?", re.IGNORECASE)


def checked(value: Any, kind: str, where: str) -> Any:
    """A value of this kind in its own type. Raises InputError for another one; where: what to call it."""
    if kind == NUMBERS:
        items = value if isinstance(value, (list, tuple)) else [value]
        return tuple(checked(item, NUMBER, where) for item in items)
    if kind in (WHOLE, NUMBER):
        number = _number(value)
        if number is not None and kind == NUMBER:
            return number
        if number is not None and number == number // 1:
            return int(number)
    elif isinstance(value, bool if kind == TRUTH else str):
        return value
    raise InputError(f"{where} is {shown(value)}, expected {WORDS[kind]}")


def shown(value: Any) -> str:
    """A value from a file, in words of one line."""
    if isinstance(value, (dict, list)):
        return "a table" if isinstance(value, dict) else "a list"
    if isinstance(value, int) and abs(value) >= LARGEST:
        return "a whole number of many digits"
    text = f'"{value}"' if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
    return printable(shortened(text, 80))


def _number(value: Any) -> int | float | None:
    """A finite number, also of a text such as "1e-4", which YAML does not take for one; None for anything else."""
    if isinstance(value, str) and NUMERAL.fullmatch(value):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if isinstance(value, int):
        return value if abs(value) < LARGEST else None
    return value if math.isfinite(value) else None
