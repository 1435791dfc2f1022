"""The command `batch`: a file of prompts into a folder of pictures."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..batch.output import Output
from ..batch.rows import ID, read_rows
from . import rows
from .arguments import Command
from .draw import common

EXAMPLES = (
    "batch prompts.txt OUT",
    "batch prompts.csv OUT --steps 20 --format webp --batch 8",
    "batch prompts.jsonl OUT --plain",
    "batch prompts.csv OUT --workers 2 --rows-per-shard 100",
    "batch prompts.parquet OUT --shard 0/4",
    "batch OUT/failed-00000.jsonl OUT-again",
)


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("prompts", metavar="PROMPTS", help=".txt, .json, .jsonl, .csv or .parquet with a prompt and settings per row")
    add("folder", metavar="OUT", type=Path, help="folder for the pictures; given again, what is missing is drawn")
    _add_rows(parser.add_argument_group("rows"))
    _add_output(parser.add_argument_group("output"))
    rows.add_drawing_options(parser)


def _add_rows(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--seed",
        dest="base_seed",
        type=int,
        default=0,
        metavar="NUMBER",
        help="of which, with its id, a row without a seed gets one (default: %(default)s)",
    )
    add("--id-column", default=ID, metavar="NAME", help="what the column of ids is called (default: id)")
    add("--prompt-column", default="prompt", metavar="NAME", help="what that of prompts is called (default: prompt)")
    add("--other-columns", action="store_true", help="ignore columns that are no settings (default: they are an error)")


def _add_output(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--format", choices=("png", "webp", "jpg"), default="png", help="of the pictures (default: %(default)s)")
    add("--plain", action="store_true", help="files named by the column `file`, or the id, in place of tars")
    add("--table", choices=("parquet", "none"), default="parquet", help="beside each tar (default: %(default)s)")
    add("--json", action="store_true", help="a JSON object on stdout at the end, or one with the error")


def run(args: argparse.Namespace) -> int:
    """Check everything that can be checked without the model, then draw what is missing."""
    rows.check(args)
    found = read_rows(
        args.prompts,
        common(args),
        seed=args.base_seed,
        id_column=args.id_column,
        prompt_column=args.prompt_column,
        other_columns=args.other_columns,
    )
    output = Output(
        folder=args.folder,
        format=args.format,
        quality=args.quality,
        plain=args.plain,
        table=args.table != "none" and not args.plain,
    )
    return rows.draw_rows(args, found, output)


BATCH = Command(
    summary="Draw a file of prompts into a folder: tars or plain files, resumed where a run ended.",
    examples=EXAMPLES,
    memory=rows.MEMORY,
    add_options=add_options,
    run=run,
)
