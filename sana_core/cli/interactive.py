"""The option --interactive: the model stays loaded, and each line is a prompt or a command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from ..errors import InputError
from ..pipeline.request import Request
from . import arguments
from .drawing import Drawing
from .failures import explained
from .output import fail, is_terminal, tell, write

SIGN, BOM = "sana> ", "\ufeff"
QUIT = ("/quit", "/exit", "/q")
HELP = (
    "a line is a prompt; these change the pictures that follow (without a value: back to what it was at the start):",
    "  /size 1024x768   /steps 20   /cfg 4.5   /seed 7   /negative blurry   /batch 2   /style anime",
    "  /show tells what is set, /help this text; /quit or Ctrl-D ends; Ctrl-C stops a picture, or ends",
)


def session(drawing: Drawing, settings: Request, checked: Callable[[Request], Request], memory: str) -> None:
    """Draw the prompts of stdin until it ends. An error costs its line alone.

    settings: of all pictures. checked: refuses a request, or gives it a seed. Raises InputError at the end if lines
    failed that no person has typed.
    """
    if sys.stdin is None:
        raise InputError("--interactive reads prompts from stdin, and there is none")
    typed = is_terminal(sys.stdin)
    if typed:
        with suppress(ImportError):
            import readline  # noqa: F401  (input() then has a history and keys to edit with)
        _say_lines(drawing, HELP)
    before, failed = settings, 0
    for line in _lines(typed):
        if line in QUIT:
            break
        try:
            if line.startswith("/"):
                settings = command(line, settings, before, lambda *lines: _say_lines(drawing, lines))
            else:
                drawing([checked(settings.changed(prompt=line))])
        except KeyboardInterrupt as stopped:
            if hasattr(stopped, "code") or not typed:
                raise
            tell("stopped; Ctrl-C once more, or Ctrl-D, ends")
        except Exception as error:
            message = explained(error, memory)
            if message is None:
                raise
            failed += 1
            fail(message, as_json=drawing.as_json)
    if failed and not typed:
        raise InputError(f"{failed} of the lines failed, see above")


def command(line: str, settings: Request, before: Request, say: Callable[..., None]) -> Request:
    """The settings after a line that begins with a slash. before: those that a command without a value goes back to.

    Raises InputError.
    """
    name, _, value = line.partition(" ")
    value = value.strip()
    if name == "/help":
        say(*HELP)
    elif name == "/show":
        say(shown(settings))
    elif name in SETTINGS:
        changes, read = SETTINGS[name]
        values = _read(read, value, name) if value else [getattr(before, change) for change in changes]
        return settings.changed(**dict(zip(changes, values))).checked()
    else:
        known = ", ".join((*SETTINGS, "/show", "/help", "/quit"))
        raise InputError(f"{name} is no command, expected one of {known}")
    return settings


def shown(settings: Request) -> str:
    """The settings as a line of commands."""
    parts = []
    for name, (changes, _) in SETTINGS.items():
        values = [getattr(settings, change) for change in changes]
        if any(value not in (None, "") for value in values):
            parts.append(f"{name} {'x'.join(str(value) for value in values)}")
    return "  ".join(parts) or "nothing is set: the model's own settings"


def _read(read: Callable[[str], Any], value: str, name: str) -> list[Any]:
    try:
        found = read(value)
    except (ValueError, argparse.ArgumentTypeError) as error:
        said = str(error) if isinstance(error, argparse.ArgumentTypeError) else f"{value!r} is not a whole number"
        raise InputError(f"{name}: {said}") from error
    return list(found) if isinstance(found, tuple) else [found]


def _at_least_one(value: str) -> int:
    if int(value) < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return int(value)


SETTINGS: dict[str, tuple[tuple[str, ...], Callable[[str], Any]]] = {
    "/size": (("width", "height"), arguments.size),
    "/steps": (("steps",), _at_least_one),
    "/cfg": (("guidance_scale",), arguments.number),
    "/seed": (("seed",), int),
    "/negative": (("negative_prompt",), str),
    "/batch": (("batch_size",), int),
    "/style": (("style",), arguments.style),
}


def _lines(typed: bool) -> Iterator[str]:
    """The lines of stdin that hold something, without spaces around them."""
    while True:
        try:
            line = _typed_line() if typed else sys.stdin.buffer.readline().decode("utf-8", "surrogateescape")
        except EOFError:
            write(sys.stderr, "\n")
            return
        except KeyboardInterrupt:
            write(sys.stderr, "\n")
            raise
        if not typed and not line:
            return
        if line.strip().lstrip(BOM):
            yield line.strip().lstrip(BOM)


def _typed_line() -> str:
    if is_terminal(sys.stdout):
        return input(SIGN)
    write(sys.stderr, SIGN)
    return input()


def _say_lines(drawing: Drawing, lines: Any) -> None:
    if not drawing.quiet:
        for line in lines:
            tell(line)
