"""`python -m sana_core`, and `python PATH/TO/sana_core` for a Python that does not look for modules in the current
folder, as that of the portable ComfyUI for Windows.
"""

import os
import sys

if not __package__:  # by its path
    from runpy import run_module

    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    run_module("sana_core", run_name="__main__", alter_sys=True)  # it ends the program

from signal import default_int_handler

from .cli import main
from .interrupts import INTERRUPTED, end_at_once, replace_handler

try:
    replace_handler(end_at_once, default_int_handler)
    code = main()
    replace_handler(default_int_handler, end_at_once)  # Python itself needs a moment to end
except KeyboardInterrupt:
    code = INTERRUPTED
if code > 128:  # by a signal: Python would end by that signal, too, if it came inside exec()
    os._exit(code)
sys.exit(code)
