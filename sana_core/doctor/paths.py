"""Paths as they are shown: the home folder as `~`."""

from __future__ import annotations

from pathlib import Path


def shown(path: str | Path) -> str:
    """A path with `~` for the home folder."""
    whole = Path(path)
    try:
        inside = whole.relative_to(Path.home())
    except (ValueError, RuntimeError):  # elsewhere, or a system without homes
        return str(whole)
    return str(Path("~") / inside)


def shown_text(text: str) -> str:
    """A message with `~` for the home folder in it."""
    try:
        home = str(Path.home())
    except RuntimeError:
        return text
    return text.replace(home, "~") if len(home) > 1 else text
