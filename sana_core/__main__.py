"""`python -m sana_core`"""

import signal
import sys

from .cli import main
from .interrupts import INTERRUPTED, end_at_once

try:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code = main()
    signal.signal(signal.SIGINT, end_at_once)  # Python itself needs a moment to end
except KeyboardInterrupt:
    code = INTERRUPTED
sys.exit(code)
