"""The command `quantize`: make a quantised file of a transformer or a text encoder."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from ..checkpoint.new_file import check_target, new_file
from ..errors import InputError
from ..pipeline.request import Request
from ..quantiser.policy import CALIBRATED, EMBEDDINGS, FORMATS
from . import arguments
from .arguments import Command
from .options import DTYPES, add_unstated
from .output import say, say_json
from .progress import bar
from .prompt_file import read_prompt_file

if TYPE_CHECKING:
    from ..quantiser.source import Model

MEASURING = ("text_encoder", "device", "size", "steps")  # options that mean nothing without prompts


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
    add("--json", action="store_true", help="write the same as one JSON object to stdout, errors too")
    add("-q", "--quiet", action="store_true", help="no progress bar and no summary; warnings stay")
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
    _check_kind(args, model)
    inputs = _inputs(args, requests) if requests else None
    with bar("quantise", quiet=args.quiet) as show:
        report = write_quantised(
            model,
            args.target,
            args.format,
            embedding=args.embedding,
            inputs=inputs,
            overwrite=args.overwrite,
            progress=show,
        )
    if args.report is not None:
        with new_file(args.report, overwrite=args.overwrite) as partial:
            partial.write_text(json.dumps(report.as_dict(), indent=1), encoding="utf-8")
    if args.json:
        say_json({"file": str(args.target), **report.as_dict()})
    elif not args.quiet:
        for line in report.lines():
            say(line)


def _requests(args: argparse.Namespace) -> list[Request]:
    """What to measure the inputs with; empty without prompts."""
    if args.prompts is None:
        if given := _given(args, MEASURING):
            raise InputError(
                f"{given}: only for measuring inputs over prompts: give them by --prompts, or leave it out"
            )
        return []
    if args.format not in CALIBRATED:
        raise InputError(f"{args.format} stores no scale of the inputs: leave out --prompts")
    width, height = args.size or (None, None)
    common = Request("", width=width, height=height, steps=args.steps)
    requests = [request.checked() for request in read_prompt_file(args.prompts, common)]
    if any(request.steps is not None and request.steps < 1 for request in requests):
        raise InputError("0 steps draw nothing to measure: give --steps at least 1")
    return requests


def _check_kind(args: argparse.Namespace, model: Model) -> None:
    """Raise InputError for options that mean nothing for this kind of model."""
    if model.prefix:
        given, kind = _given(args, ("variant", "trained_precision", "text_encoder", "size", "steps")), "a transformer"
    else:
        names = ("embedding",) if args.prompts else ("embedding", "tokenizer")
        given, kind = _given(args, names), "a text encoder"
    if given:
        raise InputError(f"{given}: only for {kind}, and {args.source} is {model.words}: leave it out")


def _given(args: argparse.Namespace, names: tuple[str, ...]) -> str:
    """Those of the options that were given, as they are written."""
    return ", ".join(f"--{name.replace('_', '-')}" for name in names if getattr(args, name) is not None)


def _inputs(args: argparse.Namespace, requests: list[Request]) -> dict[str, float]:
    from ..quantiser.calibration import largest_inputs

    with bar("measure", quiet=args.quiet) as show:
        return largest_inputs(
            args.source,
            requests,
            text_encoder=args.text_encoder,
            tokenizer=args.tokenizer,
            device=args.device,
            variant=args.variant,
            trained_precision=args.trained_precision,
            progress=show,
        )


QUANTIZE = Command(
    summary="Make a quantised file of a transformer or a text encoder.",
    examples=(
        "quantize Sana_1600M_1024px_BF16.pth sana-int8.safetensors --format int8",
        "quantize gemma_2_2b_fp16.safetensors gemma-fp8.safetensors --format fp8",
    ),
    memory="close other programs, or measure with a smaller --size",
    add_options=add_options,
    run=run,
)
