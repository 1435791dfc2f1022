"""The command `quantize`: make a quantised file of a transformer or a text encoder."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ..checkpoint.new_file import check_target
from ..errors import InputError
from ..pipeline.request import Request
from ..quantiser.policy import CALIBRATED, EMBEDDINGS, FORMATS
from . import arguments
from .arguments import Command
from .options import DTYPES, add_unstated
from .output import say, show_bar
from .prompt_file import read_prompt_file


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("source", metavar="IN", type=Path, help="SANA transformer or Gemma-2 in any layout: file or folder")
    add("target", metavar="OUT", type=Path, help="file to write; .gguf for the formats gguf-...")
    add("--format", required=True, choices=FORMATS, help="how the layers are stored")
    add_unstated(parser)
    add(
        "--dtype",
        choices=list(DTYPES),
        help="of what is not quantised (default: bfloat16; float16 for a transformer that was trained in it)",
    )
    add(
        "--embedding",
        choices=EMBEDDINGS,
        help="how the token embedding of Gemma-2 is stored (default: int8 beside int8, else fp8)",
    )
    add("--tokenizer", type=Path, metavar="FILE", help="tokenizer of a text encoder that has none inside")
    add("--overwrite", action="store_true", help="replace OUT if it is there")
    add("--report", type=Path, metavar="FILE", help="write errors and sizes of all layers as JSON")
    add("--quiet", action="store_true", help="no progress bar and no summary; warnings stay")
    add = parser.add_argument_group(f"scales of the inputs, for {' and '.join(CALIBRATED)}").add_argument
    add(
        "--prompts",
        metavar="FILE",
        help="prompts to measure the inputs with, as --prompt-file of draw (default: inputs are not rounded with fp8, "
        "and find their scale at every call with nvfp4)",
    )
    add("--text-encoder", type=Path, metavar="FILE", help="Gemma-2 to measure a transformer with: file or folder")
    add("--device", help="to measure on: cpu, cuda, cuda:1 ... (default: a GPU if there is one)")
    add("--size", type=arguments.size, help="of the pictures, such as 1024x768 (default: the model's own)")
    add("--steps", type=int, help="steps of each picture (default: 8, or the model's own if these are fewer)")


def run(args: argparse.Namespace) -> None:
    """Check everything, measure inputs if prompts are given, quantise, say what it did to the layers."""
    from ..quantiser.convert import prepare, write_quantised  # its networks need a moment to import

    if args.report is not None:
        check_target(args.report, args.overwrite)
        if args.report.resolve() in (args.source.resolve(), args.target.resolve()):
            raise InputError(f"--report {args.report} is the model itself: name another file")
    requests = _requests(args)
    model = prepare(
        args.source,
        args.target,
        args.format,
        variant=args.variant,
        trained_precision=args.trained_precision,
        dtype=DTYPES.get(args.dtype),
        embedding=args.embedding,
        tokenizer=args.tokenizer,
        overwrite=args.overwrite,
    )
    report = write_quantised(
        model,
        args.target,
        args.format,
        embedding=args.embedding,
        inputs=_inputs(args, requests) if requests else None,
        overwrite=args.overwrite,
        progress=None if args.quiet else _bar("quantise"),
    )
    if args.report is not None:
        args.report.write_text(json.dumps(report.as_dict(), indent=1), encoding="utf-8")
    if not args.quiet:
        for line in report.lines():
            say(line)


def _requests(args: argparse.Namespace) -> list[Request]:
    """What to measure the inputs with; empty without prompts."""
    if args.prompts is None:
        if args.text_encoder or args.size or args.steps:
            raise InputError("--text-encoder, --size and --steps measure inputs over prompts: give them by --prompts")
        return []
    if args.format not in CALIBRATED:
        raise InputError(f"{args.format} stores no scale of the inputs: leave out --prompts")
    width, height = args.size or (None, None)
    return read_prompt_file(args.prompts, Request("", width=width, height=height, steps=args.steps))


def _inputs(args: argparse.Namespace, requests: list[Request]) -> dict[str, float]:
    from ..quantiser.calibration import largest_inputs

    return largest_inputs(
        args.source,
        requests,
        text_encoder=args.text_encoder,
        tokenizer=args.tokenizer,
        device=args.device,
        variant=args.variant,
        trained_precision=args.trained_precision,
        progress=None if args.quiet else _bar("measure"),
    )


def _bar(label: str) -> Callable[[int, int], None]:
    """A bar on stderr, as that of `draw`."""
    return partial(show_bar, label)


QUANTIZE = Command(
    summary="Make a quantised file of a transformer or a text encoder.",
    add_options=add_options,
    run=run,
)
