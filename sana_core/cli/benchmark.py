"""The command `benchmark`: the pictures of GenEval, DPG-Bench and MJHQ-30K, and the files their tools read."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..batch.output import Output
from ..batch.rows import rows_of
from ..errors import InputError, listed
from ..metrics.benchmarks import BENCHMARKS, Benchmark
from ..prompts.entries import Entry
from . import rows
from .arguments import Command
from .draw import common
from .output import say, tell


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("name", metavar="NAME", choices=tuple(BENCHMARKS), help=", ".join(BENCHMARKS))
    add("list", metavar="PROMPTS", type=Path, help="the benchmark's own list: a file, for dpg a folder")
    add("folder", metavar="OUT", type=Path, help="folder for the pictures; given again, what is missing is drawn")
    add("--check", action="store_true", help="draw nothing: tell what is missing in OUT")
    add("--seed", dest="base_seed", type=int, default=0, metavar="NUMBER",
        help="of it and its id each picture has a seed of its own (default: %(default)s)")  # fmt: skip
    rows.add_drawing_options(parser)
    parser.set_defaults(json=False)


def run(args: argparse.Namespace) -> int:
    """Draw what is missing, then write what the tool reads beside it. Returns 1 if files are missing in the end."""
    benchmark = BENCHMARKS[args.name]
    if (args.keep or 1) > 1:
        raise InputError(f"--keep {args.keep}: {benchmark.title} has one picture of each name: leave out --keep")
    count = len(benchmark.read(args.list))
    if count != benchmark.count and not args.quiet:
        tell(f"sana: {benchmark.title} has {benchmark.count} prompts, {args.list} has {count}")
    if args.check:
        if not args.folder.is_dir():
            raise InputError(f"{args.folder} is no folder: draw the pictures first, without --check")
    else:
        _draw(args, benchmark)
        if args.plan:
            return 0
        benchmark.write_companions(args.list, args.folder)
    missing = benchmark.missing(args.list, args.folder)
    if missing or not args.quiet:
        say(f"{len(missing)} files are missing: {listed(missing)}" if missing else f"{benchmark.title} is complete")
    return 1 if missing else 0


def _draw(args: argparse.Namespace, benchmark: Benchmark) -> None:
    rows.check(args)
    entries = [
        Entry({"id": row.id, "prompt": row.prompt, "file": row.file}, f"{args.list}, {row.id}", number)
        for number, row in enumerate(benchmark.rows(args.list), start=1)
    ]
    output = Output(
        folder=args.folder, format=benchmark.ending.removeprefix("."), quality=args.quality, plain=True, table=False
    )
    settings = common(args)
    if benchmark.square and settings.width != settings.height:
        raise InputError(
            f"{benchmark.title} takes squares, not {settings.width} x {settings.height}: choose another size"
        )
    rows.draw_rows(args, rows_of(entries, settings, seed=args.base_seed), output)


BENCHMARK = Command(
    summary="Draw the prompts of GenEval, DPG-Bench or MJHQ-30K, laid out as their own tools read them.",
    examples=(
        "benchmark geneval evaluation_metadata.jsonl OUT --batch 8",
        "benchmark dpg dpg_bench/prompts OUT -m sana-1.6b",
        "benchmark mjhq meta_data.json OUT --check",
    ),
    memory=rows.MEMORY,
    add_options=add_options,
    run=run,
)
