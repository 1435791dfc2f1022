"""The command line: `python -m sana_core "a red apple" -o apple.png`.

`main.py` has the table of commands. `draw.py` is the default one, with its options, its prompt files, the names of its
pictures and what they record each in a file of their own.
"""

from .draw import draw_one as _draw
from .main import main

__all__ = ["_draw", "main"]
