"""The command `draw`, which is the default: plan, load, draw, save."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import Any

from PIL import Image

from ..errors import InputError
from ..lora import apply_lora, load_lora
from ..pictures.images import open_picture
from ..pipeline.load import load_pipeline
from ..pipeline.memory import peak_memory
from ..pipeline.pipeline import SanaPipeline
from ..pipeline.request import Request, Resolved, random_seed
from ..prompts.values import PICTURES
from ..samplers.types import StepCallback
from ..sources import EMBEDDED, PARTS, embedded_files
from . import models, names
from .arguments import Command
from .best import check_best_of, load_best_of
from .download import released_files
from .drawing import Drawing
from .interactive import session
from .options import DTYPES, add_options
from .output import tell
from .preview import check_preview
from .prompt_file import read_prompt_file
from .record import Source, model_record
from .shield import chosen_screen

EXAMPLES = (
    '"a red apple" -o apple.png',
    '"a penguin" -s 256 -S 7 --steps 20 --cfg 3',
    "--interactive",
    "--prompt-file prompts.txt -o picture.jpg --json",
    '"a corgi in a red hat" --model sana-1.6b',
)


def run(args: argparse.Namespace) -> None:
    """Check everything that can be checked without the model, load it, draw and save."""
    from . import _draw  # by its name in the package, where a script may put its own function

    if args.list_models:
        models.list_models(args.models_dir, as_json=args.json)
        return
    requests = plan(args)
    output = _output(args, requests)
    best = load_best_of(args)
    source = chosen_source(args)
    screen = chosen_screen(args)
    requests = screen(requests)
    screen = screen if args.interactive else list  # the memory of ShieldGemma is given back
    pipeline = load(args, source)
    drawing = Drawing(
        pipeline=pipeline,
        output=output,
        draw=_draw,
        record=model_record(pipeline, source, args),
        soft_edge=args.soft_edge,
        best=best,
        preview=args.preview,
        quiet=args.quiet,
        as_json=args.json,
    )
    drawing(requests)
    if args.interactive:
        session(drawing, common(args), lambda request: screen([checked(request)])[0], DRAW.memory)
    if args.offload and not args.quiet:
        tell(f"peak of memory: {peak_memory(pipeline.device)}")


def plan(args: argparse.Namespace) -> list[Request]:
    """What the arguments ask for, each with a seed. Raises InputError for whatever needs no model to be refused."""
    if args.prompt is not None and args.prompt_option is not None:
        raise InputError("give the prompt once, with -p or without")
    prompt = args.prompt_option if args.prompt is None else args.prompt
    if prompt is None and args.prompt_file is None and not args.interactive:
        raise InputError("there is nothing to draw: give a prompt, or --prompt-file")
    if args.prompt_file is not None and (prompt is not None or args.interactive):
        raise InputError("give a prompt or --prompt-file, not both; --interactive takes no --prompt-file")
    if args.batch_size < 1:
        raise InputError(f"--batch is {args.batch_size}, expected at least 1")
    check_best_of(args)
    settings = common(args)
    if args.prompt_file is not None:
        requests = read_prompt_file(args.prompt_file, settings)
    else:
        requests = [] if prompt is None else [settings.changed(prompt=prompt)]
    follows = any(request.control_image is not None for request in (*requests, settings))
    if (args.controlnet or args.soft_edge) and not follows:
        raise InputError("--controlnet and --soft-edge need the picture to follow: give it by --control-image")
    return [checked(request) for request in requests]


def common(args: argparse.Namespace) -> Request:
    """The settings of all pictures, without a prompt."""
    given: dict[str, Any] = {
        field.name: getattr(args, field.name) for field in fields(Request) if hasattr(args, field.name)
    }
    width, height = args.size or (None, None)
    given["prompt"] = ""
    given["width"] = width if args.width is None else args.width
    given["height"] = height if args.height is None else args.height
    return Request(**given)


def checked(request: Request) -> Request:
    """The request with a seed. Opens its pictures, so that one that cannot be read is refused before a model loads."""
    request = request.checked()
    for name in PICTURES:
        if getattr(request, name) is not None:
            open_picture(getattr(request, name))
    return request.changed(seed=random_seed()) if request.seed is None else request


def load(args: argparse.Namespace, source: Source) -> SanaPipeline:
    """The pipeline of the model options, with its LoRAs."""
    loras = [(load_lora(path), strength) for path, strength in args.lora]
    pipeline = load_pipeline(
        source,
        device=args.device,
        dtype=DTYPES.get(args.dtype),
        variant=args.variant,
        trained_precision=args.trained_precision,
        controlnet=args.controlnet,
        control_order=args.control_order,
        offload=args.offload,
        fast=args.fast,
    )
    for lora, strength in loras:
        networks = [pipeline.transformer] * lora.has_transformer + [pipeline.text_encoder] * lora.has_text_encoder
        for report in [apply_lora(network, lora, strength) for network in networks]:
            if not args.quiet:
                for line in str(report).splitlines():
                    tell(line)
    return pipeline


def draw_one(pipeline: SanaPipeline, run: Resolved, callback: StepCallback | None) -> list[Image.Image]:
    """The pictures of one request."""
    return pipeline(run, callback=callback)


def _output(args: argparse.Namespace, requests: list[Request]) -> names.Output:
    kept = None if args.best_of is None else args.keep or 1
    count = sum(kept or request.batch_size for request in requests)
    output = names.Output(
        path=args.output or names.DEFAULT,
        several=args.prompt_file is not None or args.interactive or (kept or args.batch_size) > 1,
        overwrite=args.overwrite,
        quality=args.quality,
    )
    if args.preview is not None:
        check_preview(args.preview)
        output.avoided.add(args.preview.absolute())
    output.avoided |= {path.absolute() for path in args.scores}
    output.check([request.seed for request in requests if request.seed is not None], count)
    return output


def chosen_source(args: argparse.Namespace) -> Source:
    """Where the model of the options of `add_files` is. Downloads a released one, if the user agrees."""
    files = {name: getattr(args, name) for name in (*PARTS, "tokenizer") if getattr(args, name) is not None}
    if args.pipeline and (files or args.model):
        raise InputError("give either --pipeline or the single model files, or the name of a --model")
    if args.model in EMBEDDED:
        return {**embedded_files(args.model), **files} if files else args.model
    if args.model is None:
        if args.yes or args.models_dir:
            raise InputError("--yes and --models-dir are about the files of a --model: name one")
        return files or args.pipeline or "nano"
    if "transformer" not in files:  # what its file may lack is known of a release
        stated = models.unstated(models.release(args.model))
        args.variant, args.trained_precision = args.variant or stated[0], args.trained_precision or stated[1]
    found = released_files(args.model, args.models_dir, without=files, yes=args.yes, quiet=args.quiet)
    return found | files


DRAW = Command(
    summary="Draw pictures with SANA; without model files, with the small embedded model.",
    examples=EXAMPLES,
    memory="with --offload one network at a time is on the GPU; or draw a smaller --size or --batch, or choose "
    "--dtype bfloat16",
    add_options=add_options,
    run=run,
)
