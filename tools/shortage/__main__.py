"""Let every allocation of loads, text encodes, steps and decodes of the embedded model fail once:

    python -m tools.shortage [--part load|encode|step|decode] [--every N] [--host]

Each failure has to end in an error that says so, or for a decode in tiles; nothing may be left changed, no memory held,
and the next run has to be the right one to the bit. --every N: of the allocations after the first 20, each Nth alone.
--host: inside ComfyUI, with its Python (COMFYUI_DIR, see tests/e2e/comfyui.py). Runs on the CPU: no Triton kernel and
no CUDA graph is reached.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time

PARTS = ("load", "encode", "step", "decode")
FIRST = 20


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.shortage", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--part", choices=PARTS, action="append")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--host", action="store_true")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    if args.host:
        from . import host as place
    else:
        from . import library as place
    from .trial import attempt

    wrong, start = 0, time.monotonic()
    for part in args.part or PARTS:
        for job in place.jobs(part):
            tally = attempt(job, lambda number: number <= FIRST or number % args.every == 0)
            print(tally, *tally.wrong[:10], sep="\n  ", flush=True)  # noqa: T201
            wrong += len(tally.wrong)
    print(f"{wrong} wrong, {time.monotonic() - start:.0f} s")  # noqa: T201
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
