"""The command line: `python -m sana_core "a red apple" -o apple.png`.

`main.py` has the table of commands. `draw.py` is the default one: `options.py` has its options, `drawing.py` draws and
saves, `interactive.py` is the session, `models.py` and `download.py` find released models, `shield.py` checks prompts;
prompt files, names, picture files and what they record have a file each.
"""

from .draw import draw_one as _draw
from .main import main

__all__ = ["_draw", "main"]
