"""A command of the command line, its parser, and the forms of values on the command line."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ..errors import InputError
from ..samplers.guidance import block_numbers
from ..styles import style_name
from .once import first_to_say
from .output import fail, write


@dataclass(frozen=True, kw_only=True)
class Command:
    """summary: one line for --help. examples: more lines of it. add_options: adds them to a parser. run: does the work
    with parsed options, which may have `quiet`; it returns the exit code, None for 0, and raises SanaError or OSError.
    memory: what helps if there is too little. together: do several processes of it work on one thing?
    """

    summary: str
    examples: Sequence[str]
    memory: str
    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int | None]
    together: bool = False


class Parser(argparse.ArgumentParser):
    """Errors are one line, or with `as_json` a JSON object; with `together` of one process, if others have the same. No
    stream has to be there. takes_prompt: is a word that is left over a part of a prompt?
    """

    as_json = together = takes_prompt = False

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **settings})

    def error(self, message: str) -> NoReturn:
        hint = "--help lists the options"
        left = message.removeprefix("unrecognized arguments: ")
        if self.takes_prompt and left != message and not left.startswith("-"):
            hint = "a prompt of several words stands in quotes"
        if not self.together or first_to_say(message):
            fail(f"{message} ({hint})", as_json=self.as_json)
        sys.exit(2)

    def _print_message(self, message: str, file: Any = None) -> None:
        write(file or sys.stderr, message)


def size(text: str) -> tuple[int, int]:
    """ "1024x768" or "512" -> (width, height)."""
    width, cross, height = text.lower().partition("x")
    try:
        return int(width), int(height if cross else width)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 1024x768 or 512") from None


def quality(text: str) -> int:
    """ "90" -> 90: of a JPEG or WebP file."""
    if not text.isdecimal() or not 1 <= int(text) <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not a quality, expected a whole number from 1 to 100")
    return int(text)


def number(text: str) -> float:
    """A finite number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number")
    return value


def probability(text: str) -> float:
    """A number from 0 to 1."""
    value = number(text)
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"{text} is not a probability, expected a number from 0 to 1")
    return value


def blocks(text: str) -> tuple[int, ...]:
    """ "8, 9" -> (8, 9)."""
    try:
        return tuple(block_numbers(text))
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def instruction(text: str) -> str | None:
    """ "none" -> None, for no text before the prompt."""
    return None if text == "none" else text


def style(text: str) -> str:
    """ "pixel art" -> "Pixel art"."""
    try:
        return style_name(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def lora(text: str) -> tuple[Path, float]:
    """ "style.safetensors:0.8" -> (path, strength); strength 1 without a number."""
    path, _, strength = text.rpartition(":")
    try:
        float(strength)
    except ValueError:  # no number there: a drive letter's colon
        return Path(text), 1.0
    return Path(path or text), number(strength) if path else 1.0
