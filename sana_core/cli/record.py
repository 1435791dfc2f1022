"""What a picture's record says of the model, without folders of the user."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..pipeline.pipeline import SanaPipeline

Source = str | Path | dict[str, Path]


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


def _model_name(source: Source) -> str:
    path = (source["transformer"] if isinstance(source, dict) else Path(source)).absolute()
    return path.stem if path.is_file() else path.name
