"""The errors a user of the pack can cause. Each message is one line: what was found, what was expected, what to do."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

LONGEST = 990  # characters of a message
LONGEST_NAME = 200  # characters of one name in a list of them
NAMED = 6  # names that a list shows
LISTED = 900  # characters of a list


class SanaError(ValueError):
    """Base class of all errors raised on purpose by sana_core.

    Its message is safe to show, whatever names from files it repeats: one line of at most 990 characters, without
    control characters.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(safe_line(str(message)))


class DivergedError(SanaError):
    """A training whose loss is not a number any more."""


class CheckpointError(SanaError):
    """A model file cannot be used: unreadable, of another model, or with missing, unexpected or mis-shaped tensors."""


class InputError(SanaError):
    """An argument or an input (size, prompt file, picture, device) cannot be used."""


class RefusedError(SanaError):
    """A prompt that the check of prompts does not let pass."""


def safe_line(text: str) -> str:
    """Text from anywhere as one line of at most 990 characters, without control characters."""
    return shortened(printable(shortened(text, LONGEST)), LONGEST)


def printable(text: str) -> str:
    r"""Text with line breaks as spaces and with what a terminal would not show, or would obey, as \x1b and the like."""
    if text.isprintable():
        return text
    return "".join(map(_printable, text))


def _printable(character: str) -> str:
    if character.isprintable() or unicodedata.category(character) == "Zs":
        return character
    return " " if character in "\t\r\n\u2028\u2029" else character.encode("unicode_escape").decode("ascii")


def shortened(text: str, longest: int = LONGEST_NAME) -> str:
    """A text of at most `longest` characters: from a longer one the middle is taken out, "..." stands for it."""
    if len(text) <= longest:
        return text
    tail = longest * 2 // 5
    return f"{text[: longest - tail - 5]} ... {text[-tail:]}"


def listed(names: Sequence[str], most: int = NAMED) -> str:
    """The first few names, each shortened, and how many more there are: "a, b and 3 more"."""
    longest = min(LONGEST_NAME, LISTED // max(most, 1))
    shown = ", ".join(shortened(name, longest) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
