"""The command `doctor`: what this machine has for SANA, and what each model file is."""

from __future__ import annotations

import argparse
from itertools import count
from pathlib import Path

from ..errors import printable
from . import models
from .arguments import Command
from .output import say, say_json, tell
from .progress import bar


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("folders", nargs="*", metavar="FOLDER", type=Path, help="more folders or files to look at")
    add(
        "--models-dir",
        type=Path,
        metavar="FOLDER",
        help="where released models are, as for draw (default: the cache of huggingface_hub)",
    )
    add("--all", action="store_true", help="list files that are not SANA's, too")
    add("--json", action="store_true", help="one JSON object on stdout")
    add("-q", "--quiet", action="store_true", help="no progress")


def run(args: argparse.Namespace) -> None:
    """Look and tell. Nothing that is missing is an error."""
    from ..doctor.report import as_dict, examine, lines

    with bar("looking", quiet=args.quiet) as show:
        seen = count(1)
        told = None if show is None else lambda folder: show(next(seen), 0)
        folders = [*args.folders, *([args.models_dir] if args.models_dir else [])]
        health = examine(folders, downloaded(args.models_dir), told)
    if args.json:
        say_json(as_dict(health))
        return
    for line in lines(health, everything=args.all):
        say(printable(line))  # names of files may hold anything
    if not args.quiet:
        tell("pictures are wrong? python -m sana_core verify --help")


def downloaded(models_dir: Path | None) -> list[Path]:
    """Files of released models that `draw --model` finds."""
    files = [*map(models.release, models.MODELS), *models.BESIDE.values()]
    found = [models.local_file(file, models_dir) for file in files]
    return [path for path in found if path is not None]


DOCTOR = Command(
    summary="Tell what this machine has for SANA: PyTorch, cards, ComfyUI, and what each model file is and why.",
    examples=("doctor", "doctor ~/Downloads", "doctor --json"),
    memory="close other programs",
    add_options=add_options,
    run=run,
)
