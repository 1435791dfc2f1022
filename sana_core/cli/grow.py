"""The command `grow`: make a deeper transformer of a trained one."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import InputError
from ..sources import EMBEDDED, PipelineFiles
from .arguments import Command
from .models import MODELS
from .options import add_unstated
from .output import say, say_json
from .progress import bar

SOURCE = "SANA transformer in any layout, not quantised: file or folder; nano or nano-sprint: an embedded one"


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("source", metavar="MODEL", type=Path, help=SOURCE)
    add("target", metavar="OUT", type=Path, help=".safetensors file to write")
    add("--depth", type=int, required=True, metavar="NUMBER", help="blocks of the new model")
    add(
        "--inherit",
        type=int,
        metavar="NUMBER",
        help="blocks at the beginning of MODEL that are used (default: all but the last two, which are made for its "
        "output; all for cyclic and block)",
    )
    add(
        "--method",
        default="partial",
        metavar="NAME",
        help="partial: the new blocks follow the old ones and change nothing yet, as SANA-1.5 4.8B began; cyclic: all "
        "old blocks again and again; block: each old block some times in its place (default: %(default)s)",
    )
    add("--seed", type=int, default=0, help="of the new blocks (default: %(default)s)")
    add_unstated(parser)
    add_written(parser)


def add_written(parser: argparse.ArgumentParser) -> None:
    """What all commands have that write a transformer."""
    add = parser.add_argument
    add("--overwrite", action="store_true", help="replace OUT if it is there")
    add("--json", action="store_true", help="one JSON object on stdout, errors too")
    add("-q", "--quiet", action="store_true", help="no progress bar and no summary; warnings stay")


def embedded(source: Path) -> PipelineFiles | None:
    """The files of an embedded model, if MODEL is its name. Raises InputError for the name of a released one."""
    name = str(source)
    if source.exists():
        return None
    if name.lower() in MODELS:
        raise InputError(f"{name} is the name of a released model: give its file or folder here")
    return EMBEDDED.get(name)


def run(args: argparse.Namespace) -> None:
    """Check everything, write the file, say what its blocks are."""
    from ..training.depth import grow  # its networks need a moment to import

    files = embedded(args.source)
    with bar("grow", quiet=args.quiet) as show:
        blocks = grow(
            files.transformer if files else args.source,
            args.target,
            depth=args.depth,
            inherit=args.inherit,
            method=args.method,
            seed=args.seed,
            variant=args.variant,
            trained_precision=args.trained_precision,
            overwrite=args.overwrite,
            progress=show,
        )
    if args.json:
        say_json({"file": str(args.target), "blocks": list(blocks)})
    elif not args.quiet:
        new = sum(block is None for block in blocks)
        old = len(blocks) - new
        say(f"{args.target}: {len(blocks)} blocks, {old} of the old model{f' and {new} new ones' if new else ''}")
        say("it has to be trained: new blocks change nothing yet" if new else "it has to be trained")


GROW = Command(
    summary="Make a deeper transformer of a trained one, to train it further.",
    examples=("grow Sana_1600M_1024px_BF16.pth sana-4800m-start.safetensors --depth 60 --inherit 18",),
    memory="close other programs",
    add_options=add_options,
    run=run,
)
