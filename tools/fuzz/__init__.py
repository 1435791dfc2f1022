"""Feeds damaged and hostile inputs to every parser of the pack: `python -m tools.fuzz`.

Whatever comes in, only a SanaError may come out. Nothing in a file runs, no case needs much more memory than its file,
and none takes over two seconds. A case is made from a seed, its target and its number alone, so it can be replayed.
"""

import os
import sys
from pathlib import Path

# Processes are forked while threads of libraries would be lost, and each core has a process.
for name in ("OMP_NUM_THREADS", "RAYON_NUM_THREADS"):
    os.environ.setdefault(name, "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

TESTS = str(Path(__file__).parents[2] / "tests")
if TESTS not in sys.path:
    sys.path.append(TESTS)  # for the tests' makers of tiny files
