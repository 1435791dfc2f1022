"""The command `verify`: is SANA right on this machine, with these files?"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError, printable
from ..fast import FAST
from ..whole_files import explained, whole_file
from . import arguments
from .arguments import Command
from .draw import chosen_source
from .names import check_place, highest_number, numbered, take
from .options import DTYPES, add_files, add_unstated
from .output import say, say_json, tell

if TYPE_CHECKING:
    from ..verify.report import Report

REPORT = Path("sana_verify.md")


def add_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("which model")
    add_files(group)
    group.add_argument("--controlnet", type=Path, metavar="FILE", help="SANA ControlNet to compare too: file or folder")
    add_unstated(group)
    add = parser.add_argument_group("the picture that is drawn").add_argument
    add("-s", "--size", type=arguments.size, help="such as 1024x1024 (default: the model's own)")
    add("--steps", type=int, help="(default: the model's own)")
    add = parser.add_argument_group("the report").add_argument
    add(
        "--report",
        type=Path,
        metavar="FILE",
        help=f"Markdown, with the picture beside it; a name that is taken gets a number (default: {REPORT})",
    )
    add("--overwrite", action="store_true", help="replace files that are there")
    add("--json", action="store_true", help="the report as a JSON object on stdout")
    add("-q", "--quiet", action="store_true", help="no words on what is done now")
    add = parser.add_argument_group("the machine").add_argument
    add("--device", help="cpu, cuda, cuda:1 ... (default: a GPU if there is one)")
    add("--dtype", choices=list(DTYPES), help="of the transformer (default: as draw chooses it)")
    add("--offload", action="store_true", help="draw the picture with one network at a time on the GPU")
    add("--fast", choices=FAST, default="auto", help="what is compared with plain operations (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Compare, measure, draw, write the report. Returns 1 if something disagrees, 2 if nothing could be checked."""
    from ..verify.measure import request  # its networks need a moment to import
    from ..verify.report import as_dict
    from ..verify.run import prepare, verify

    width, height = args.size or (None, None)
    wanted = request(width, height, args.steps).checked()
    target = args.report or REPORT
    if target.suffix.lower() == ".png" or not target.name or os.path.isdir(target):
        raise InputError(f"--report {target}: expected the name of a text file, such as report.md")
    _check_target(target, args.overwrite)
    setup, numbers = prepare(
        chosen_source(args),
        controlnet=args.controlnet,
        device=args.device,
        dtype=DTYPES.get(args.dtype),
        variant=args.variant,
        trained_precision=args.trained_precision,
        fast=args.fast,
        offload=args.offload,
    )
    wanted.resolve(setup.sampling, setup.config)  # refuses what cannot be drawn before anything is compared
    report = verify(
        setup, numbers, wanted, (lambda words: None) if args.quiet else lambda words: tell(f"verify: {words}")
    )
    saved = _save(report, target, args.overwrite)
    if args.json:
        say_json(as_dict(report) | {"file": str(saved)})
    else:
        say(report.verdict)
        say(printable(str(saved)))
    return 1 if report.bad else 2 if report.empty else 0


def _check_target(wanted: Path, overwrite: bool) -> None:
    """Raise InputError if the report, or the picture beside it, could not be written."""
    target = next(path for path in _names(wanted) if overwrite or not any(map(os.path.lexists, _both(path))))
    for path in _both(target):
        check_place(path, "--report")
        if path.exists() and not path.is_file():
            raise InputError(f"--report {wanted}: {path} is a device, expected the name of a file")
    if not wanted.parent.is_dir():
        raise InputError(f"{wanted}: there is no folder {wanted.parent}: make it first")


def _save(report: Report, wanted: Path, overwrite: bool) -> Path:
    """Write the report, and the picture beside it: both or none. Returns the name of the report."""
    from ..verify.report import markdown

    target = next(path for path in _names(wanted) if overwrite or (not os.path.lexists(_both(path)[1]) and take(path)))
    text, picture = _both(target)
    try:
        with explained(target), ExitStack() as files:
            if report.drawn is not None:
                report.drawn.picture.save(files.enter_context(whole_file(picture)), "PNG")
                report.picture = _both(target)[1].name
            files.enter_context(whole_file(text)).write_text(markdown(report), encoding="utf-8")
    except BaseException:
        if not overwrite:
            target.unlink(missing_ok=True)
        raise
    return target


def _names(wanted: Path) -> Iterator[Path]:
    """Names of the report, in the order in which they are taken."""
    yield wanted
    for number in count(1 + max(map(highest_number, _both(wanted)))):
        yield numbered(wanted, number)


def _both(report: Path) -> tuple[Path, Path]:
    """The report, and the picture beside it."""
    return report, report.with_suffix(".png")


VERIFY = Command(
    summary="Compare the networks with diffusers' on this machine, measure them, draw a picture, and write a report.",
    examples=(
        "verify",
        "verify --transformer sana.pth --autoencoder dcae.safetensors --text-encoder gemma.safetensors",
        "verify --model sana-1.6b --report report.md",
    ),
    memory="close other programs, or take a smaller --size",
    add_options=add_options,
    run=run,
)
