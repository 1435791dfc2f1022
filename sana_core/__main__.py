"""`python -m sana_core`"""

import os
import sys
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
