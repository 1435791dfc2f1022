"""The command. It ends with 1 if any case failed."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from .run import Result, fuzz
from .targets import all_targets


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.fuzz", description=sys.modules["tools.fuzz"].__doc__)
    parser.add_argument("--cases", type=int, default=100_000, help="of all targets together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", nargs="+", metavar="NAME", help="one or more; default: all that can run here")
    parser.add_argument("--case", type=int, help="this one case alone, to replay it")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the files of cases that fail")
    args = parser.parse_args(arguments)
    targets = all_targets()
    names = args.target or list(targets)
    if unknown := [name for name in names if name not in targets]:
        parser.error(f"no target {', '.join(unknown)}, expected {', '.join(targets)}")
    each = max(args.cases // len(names), 1)
    cases = range(each) if args.case is None else range(args.case, args.case + 1)
    began = time.monotonic()
    say(f"{'target':16}{'cases':>8}{'accepted':>10}{'refused':>9}{'failures':>10}{'slowest ms':>12}")
    total = Result()
    for name in names:
        result = fuzz(targets[name], args.seed, cases, jobs=args.jobs, keep=args.keep)
        say(line(name, result))
        total.accepted += result.accepted
        total.refused += result.refused
        total.failures += result.failures
        total.slowest = max(total.slowest, result.slowest)
    say(line("all", total))
    for failure in total.failures[:50]:
        say(str(failure))
    say(f"{time.monotonic() - began:.0f} s, seed {args.seed}")
    return 1 if total.failures else 0


def line(name: str, result: Result) -> str:
    numbers = f"{result.cases:8}{result.accepted:10}{result.refused:9}{len(result.failures):10}"
    return f"{name:16}{numbers}{result.slowest:12.0f}"


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("stopped: a target that was not finished has no line")
