"""The command line: `python -m sana_core "a red apple" -o apple.png`."""

from .draw import main

__all__ = ["main"]
