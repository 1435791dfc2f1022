"""The command `draw`, which is the default: plan, load, draw, save."""

from __future__ import annotations

import argparse
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..errors import InputError
from ..lora import apply_lora, load_lora
from ..pictures.images import open_picture
from ..pictures.modes import grey
from ..pictures.soft_edge import soft_edge
from ..pipeline.load import load_pipeline
from ..pipeline.memory import peak_memory
from ..pipeline.pipeline import SanaPipeline
from ..pipeline.request import Request, Resolved, random_seed
from ..samplers.types import StepCallback
from ..sources import PARTS
from . import names
from .arguments import Command
from .options import DEFAULT_OUTPUT, DTYPES, add_options
from .output import progress_bar, say, tell
from .preview import check_preview, preview_map, shown
from .prompt_file import PICTURES, read_prompt_file
from .record import Source, model_record, picture_record


def run(args: argparse.Namespace) -> None:
    """Check everything that can be checked without the model, load it, draw and save."""
    from . import _draw  # by its name in the package, where a script may put its own function

    requests, source = plan(args), _source(args)
    alone = args.prompt_file is None and args.batch_size == 1
    count = sum(request.batch_size for request in requests)
    output = names.output(args.output, DEFAULT_OUTPUT, alone=alone, count=count)
    if args.preview is not None:
        check_preview(args.preview)
    pipeline = load(args, source)
    preview = None if args.preview is None else partial(shown, args.preview, preview_map(pipeline))
    drawn_by = model_record(pipeline, source, args)
    for request in requests:
        _resolved(pipeline, request, args.soft_edge)  # refuses whatever it has to before the first picture
    for number, request in enumerate(requests, 1):
        resolved = _resolved(pipeline, request, args.soft_edge)
        bar = None if args.quiet else progress_bar(f"{number}/{len(requests)}", len(resolved.sigmas()) - 1)
        callback = bar if preview is None else preview(bar)
        for index, picture in enumerate(_draw(pipeline, resolved, callback)):
            path = output.save(picture, picture_record(request, resolved, index) | drawn_by)
            if not args.quiet:
                say(str(path))
    if args.offload and not args.quiet:
        tell(f"peak of memory: {peak_memory(pipeline.device)}")


def plan(args: argparse.Namespace) -> list[Request]:
    """What the arguments ask for, each with a seed. Raises InputError for whatever needs no model to be refused."""
    if args.prompt is None and args.prompt_file is None:
        raise InputError("there is nothing to draw: give a prompt, or --prompt-file")
    if args.prompt is not None and args.prompt_file is not None:
        raise InputError("give a prompt or --prompt-file, not both")
    if args.batch_size < 1:
        raise InputError(f"--batch is {args.batch_size}, expected at least 1")
    given: dict[str, Any] = {
        field.name: getattr(args, field.name) for field in fields(Request) if hasattr(args, field.name)
    }
    width, height = args.size or (None, None)
    given["prompt"] = args.prompt or ""
    given["width"] = width if args.width is None else args.width
    given["height"] = height if args.height is None else args.height
    common = Request(**given)
    requests = [common] if args.prompt_file is None else read_prompt_file(args.prompt_file, common)
    follows = any(request.control_image is not None for request in requests)
    if (args.controlnet or args.soft_edge) and not follows:
        raise InputError("--controlnet and --soft-edge need the picture to follow: give it by --control-image")
    return [_checked(request) for request in requests]


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


def _checked(request: Request) -> Request:
    """The request with a seed. Opens its pictures, so that one that cannot be read is refused before a model loads."""
    request = request.checked()
    for name in PICTURES:
        if getattr(request, name) is not None:
            open_picture(getattr(request, name))
    return request.changed(seed=random_seed()) if request.seed is None else request


def _resolved(pipeline: SanaPipeline, request: Request, edges: str | None) -> Resolved:
    """For the pipeline. edges: "soft" or "thin" to prepare the control picture."""
    if edges is not None and request.control_image is not None:
        picture = grey(open_picture(_path(request.control_image)))
        pixels = torch.from_numpy(np.array(picture)).float() / 255.0
        request = request.changed(control_image=soft_edge(pixels[None, None], thin=edges == "thin"))
    return pipeline.resolve(request)


def _path(picture: Any) -> Path:
    return Path(picture)


def _source(args: argparse.Namespace) -> Source:
    files = {name: getattr(args, name) for name in (*PARTS, "tokenizer") if getattr(args, name) is not None}
    if files and args.pipeline:
        raise InputError("give either --pipeline or the single model files")
    return files or args.pipeline or "nano"


DRAW = Command(
    summary="Draw pictures with SANA; without model files, with the small embedded model.",
    add_options=add_options,
    run=run,
)
