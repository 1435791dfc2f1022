"""The command `prune`: leave out the blocks of a transformer that do least."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError
from ..pipeline.request import Request
from . import arguments
from .arguments import Command
from .grow import SOURCE, add_written, embedded
from .options import add_unstated
from .output import say, say_json
from .progress import bar
from .prompt_file import read_prompt_file


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("source", metavar="MODEL", type=Path, help=SOURCE)
    add("target", metavar="OUT", type=Path, help=".safetensors file to write")
    add("--depth", type=int, required=True, metavar="NUMBER", help="blocks that stay; the first and the last do")
    add_unstated(parser)
    add_written(parser)
    group = parser.add_argument_group("what the blocks are measured with: one of --prompts and --data")
    add = group.add_argument
    add("--prompts", metavar="FILE", help="prompts to draw, as --prompt-file of draw")
    add("--data", type=Path, metavar="FOLDER", help="pictures with captions, as for train")
    add("--text-encoder", type=Path, metavar="FILE", help="Gemma-2: file or folder (default: in a pipeline folder)")
    add("--tokenizer", type=Path, metavar="FILE", help="its tokenizer, if it has none inside")
    add("--autoencoder", type=Path, metavar="FILE", help="DC-AE for --data (default: in a pipeline folder)")
    add("--samples", type=int, metavar="NUMBER", help="pictures of --data that are looked at (default: 32)")
    add("--size", type=arguments.size, help="of the drawn pictures, such as 1024x768 (default: the model's own)")
    add("--steps", type=int, help="steps of each drawn picture (default: 8, or the model's own if these are fewer)")
    add("--device", help="to measure on: cpu, cuda, cuda:1 ... (default: a GPU if there is one)")


def run(args: argparse.Namespace) -> None:
    """Check everything, measure the blocks, write the file, show how much each block does."""
    from ..training.depth import open_transformer, write_blocks  # its networks need a moment to import
    from ..training.importance import check_depth, kept_blocks

    requests = _requests(args)
    if files := embedded(args.source):
        args.source, args.text_encoder = files.transformer, args.text_encoder or files.text_encoder
        args.autoencoder = args.autoencoder or (files.autoencoder if args.data else None)
    stated = {"variant": args.variant, "trained_precision": args.trained_precision}
    model, config = open_transformer(args.source, args.target, overwrite=args.overwrite, **stated)
    check_depth(config.depth, args.depth)
    importance = _importance(args, requests)
    kept = kept_blocks(importance, args.depth)
    with bar("write", quiet=args.quiet) as show:
        write_blocks(model, config, kept, args.target, overwrite=args.overwrite, progress=show)
    if args.json:
        say_json({"file": str(args.target), "blocks": list(kept), "importance": importance})
    elif not args.quiet:
        say("block  importance")
        for index, value in enumerate(importance):
            say(f"{index:5}  {value:10.6f}{'' if index in kept else '  left out'}")
        say(f"{args.target}: {len(kept)} of {len(importance)} blocks; a short training makes up for the others")


def _requests(args: argparse.Namespace) -> list[Request]:
    """What to draw; empty with --data."""
    if (args.prompts is None) == (args.data is None):
        raise InputError("blocks are measured with prompts or with pictures: give one of --prompts and --data")
    if args.data is not None:
        if given := _given(args, ("size", "steps")):
            raise InputError(f"{given}: only for --prompts: leave it out")
        if args.samples is not None and args.samples < 1:
            raise InputError(f"--samples is {args.samples}, expected at least 1")
        return []
    if given := _given(args, ("samples", "autoencoder")):
        raise InputError(f"{given}: only for --data: leave it out")
    width, height = args.size or (None, None)
    requests = read_prompt_file(args.prompts, Request("", width=width, height=height, steps=args.steps))
    if any(request.steps is not None and request.steps < 1 for request in requests):
        raise InputError("0 steps draw nothing to measure: give --steps at least 1")
    return [request.checked() for request in requests]


def _given(args: argparse.Namespace, names: Sequence[str]) -> str:
    return ", ".join(f"--{name}" for name in names if getattr(args, name) is not None)


def _importance(args: argparse.Namespace, requests: list[Request]) -> list[float]:
    from ..training.importance import importance_of_pictures, importance_of_prompts

    names = ("text_encoder", "tokenizer", "device", "variant", "trained_precision")
    common = {name: getattr(args, name) for name in names}
    with bar("measure", quiet=args.quiet) as show:
        if args.data is None:
            return importance_of_prompts(args.source, requests, **common, progress=show)
        return importance_of_pictures(
            args.source, args.data, autoencoder=args.autoencoder, samples=args.samples, **common, progress=show
        )


PRUNE = Command(
    summary="Leave out the blocks of a transformer that do least.",
    examples=(
        "prune SANA1.5_4.8B_1024px.pth sana-3200m.safetensors --depth 40 --prompts prompts.txt --text-encoder gemma",
        "prune SANA1.5_4.8B_1024px_diffusers sana-1600m.safetensors --depth 20 --data pictures",
    ),
    memory="close other programs, or measure with a smaller --size",
    add_options=add_options,
    run=run,
)
