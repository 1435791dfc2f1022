"""What a picture's PNG records of how it was made: all that is needed to draw it again, and no folders of the user."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..pipeline.pipeline import SanaPipeline
from ..pipeline.request import Request, Resolved

Source = str | Path | dict[str, Path]


def picture_record(request: Request, run: Resolved, index: int) -> dict[str, Any]:
    """The settings of a picture. request: with file names for pictures. index: in its batch."""
    record: dict[str, Any] = {"prompt": request.prompt, "negative_prompt": request.negative_prompt, "seed": run.seed}
    for name in ("steps", "guidance_scale", "shift", "sampler", "width", "height", "batch_size"):
        record[name] = getattr(run, name)
    record |= {"batch_index": index, "instruction": run.instruction if run.instruction is not None else "none"}
    if run.negative_mask != "own":
        record["negative_mask"] = run.negative_mask
    if run.pag_scale > 0.0:
        record["pag_scale"] = run.pag_scale
    if request.pag_layers is not None:
        record["pag_layers"] = ",".join(map(str, request.pag_layers))
    if request.image is not None:
        record |= {"image": _name(request.image), "strength": run.strength}
    if request.mask is not None:
        record["mask"] = _name(request.mask)
    if request.control_image is not None:
        record |= {"control_image": _name(request.control_image), "control_scale": run.control_scale}
    return record


def model_record(pipeline: SanaPipeline, source: Source, args: argparse.Namespace) -> dict[str, Any]:
    """What drew the pictures: the networks, and the options that change what they do."""
    dtype = str(pipeline.transformer.scale_shift_table.dtype).removeprefix("torch.")
    record: dict[str, Any] = {"model": _model_name(source), "variant": args.variant, "dtype": dtype}
    if args.trained_precision:
        record["trained_precision"] = args.trained_precision
    if isinstance(source, dict):
        record |= {part: source[part].name for part in ("autoencoder", "text_encoder") if part in source}
    if args.lora:
        record["loras"] = [f"{path.name}:{strength:g}" for path, strength in args.lora]
    if pipeline.controlnet is not None:  # its own file, or that of the pipeline folder
        name = args.controlnet.name if args.controlnet else f"{_model_name(source)}/controlnet"
        record |= {"controlnet": name, "control_order": pipeline.controlnet.order, "soft_edge": args.soft_edge}
    return record


def _name(path: Any) -> str:
    return Path(path).name


def _model_name(source: Source) -> str:
    path = (source["transformer"] if isinstance(source, dict) else Path(source)).absolute()
    return path.stem if path.is_file() else path.name
