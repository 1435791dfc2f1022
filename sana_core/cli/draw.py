"""Command line: `python -m sana_core "a red apple" -o apple.png`."""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image

from ..config import SamplingDefaults
from ..errors import InputError, SanaError
from ..latents import latent_size
from ..lora import Lora, apply_lora, load_lora
from ..pictures.images import Picture, eight_bit, natural_size, open_picture, save_png
from ..pictures.soft_edge import soft_edge
from ..pipeline.offload import peak_memory
from ..pipeline.pipeline import SanaPipeline, load_pipeline
from ..pipeline.start import redrawn_share
from ..samplers.flow_euler import StepCallback
from ..samplers.guidance import block_numbers
from ..sources import PARTS
from ..text.tokenizer import check_text
from .arguments import DTYPES, parser
from .prompt_file import PICTURES, Job, read_prompt_file

BAR = 30  # characters


def main(argv: Sequence[str] | None = None) -> int:
    """Draw what the arguments ask for. Returns the exit code: 0, or 2 after one line on stderr."""
    try:
        args = parser().parse_args(argv)
        with _log_on_stderr(logging.WARNING if args.quiet else logging.INFO):
            draw_all(args)
    except (SanaError, OSError) as error:
        sys.stderr.write(f"sana: error: {error}\n")
        return 2
    return 0


@contextmanager
def _log_on_stderr(level: int) -> Iterator[None]:
    """What the library logs from this level on, on today's stderr."""
    log, handler = logging.getLogger("sana"), logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("sana: %(message)s"))
    handler.setLevel(level)
    before = log.level
    log.addHandler(handler)
    log.setLevel(level)
    try:
        yield
    finally:
        log.setLevel(before)
        log.removeHandler(handler)


def draw_all(args: argparse.Namespace) -> None:
    """Check everything that can be checked without the model, load it, draw and save."""
    jobs, source = _jobs(args), _source(args)
    _check_output(args.output)
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
    )
    for lora, strength in loras:
        _add_lora(pipeline, lora, strength, quiet=args.quiet)
    drawn_by = _drawn_by(pipeline, source, args)
    plan = [(_seeded(job), _settings(pipeline, job)) for job in jobs]
    args.output.parent.mkdir(parents=True, exist_ok=True)
    number = 0
    for index, (job, settings) in enumerate(plan):
        for item, picture in enumerate(_draw(pipeline, job, settings, args, f"{index + 1}/{len(plan)}")):
            number += 1
            alone = args.prompt_file is None and args.batch == 1
            path = args.output if alone else args.output.with_stem(f"{args.output.stem}-{number:04d}")
            given = {name: value for name, value in asdict(job).items() if value is not None}
            save_png(
                picture, path, {**given, **asdict(settings), "batch_size": args.batch, "batch_index": item, **drawn_by}
            )
            if not args.quiet:
                sys.stdout.write(f"{path}\n")
    if args.offload and not args.quiet:
        sys.stderr.write(f"peak of memory: {peak_memory(pipeline.device)}\n")


def _drawn_by(pipeline: SanaPipeline, source: str | Path | dict[str, Path], args: argparse.Namespace) -> dict[str, Any]:
    """What a picture's record says of the networks and of the options that hold for every picture."""
    dtype = str(pipeline.transformer.scale_shift_table.dtype).removeprefix("torch.")
    record = {"model": _model_name(source), "variant": args.variant, "dtype": dtype, "instruction": args.instruction}
    if args.negative_mask != "own":
        record["negative_mask"] = args.negative_mask
    if args.trained_precision:
        record["trained_precision"] = args.trained_precision
    record |= {part: getattr(args, part).name for part in ("autoencoder", "text_encoder") if getattr(args, part)}
    if args.lora:
        record["loras"] = [f"{path.name}:{strength:g}" for path, strength in args.lora]
    if pipeline.controlnet is not None:  # its own file, or that of the pipeline folder
        name = args.controlnet.name if args.controlnet else f"{_model_name(source)}/controlnet"
        record |= {"controlnet": name, "control_order": pipeline.controlnet.order, "soft_edge": args.soft_edge}
    return record


def _add_lora(pipeline: SanaPipeline, lora: Lora, strength: float, *, quiet: bool) -> None:
    """Add it to the networks that it has factors for, and say so on stderr."""
    networks = [pipeline.transformer] * lora.has_transformer + [pipeline.text_encoder] * lora.has_text_encoder
    for report in [apply_lora(network, lora, strength) for network in networks]:
        if not quiet:
            sys.stderr.write(f"{report}\n")


def _jobs(args: argparse.Namespace) -> list[Job]:
    if (args.prompt is None) == (args.prompt_file is None):
        raise InputError("give either a prompt or --prompt-file")
    if args.batch < 1:
        raise InputError(f"--batch is {args.batch}, expected at least 1")
    width, height = args.size or (None, None)
    common = Job(
        prompt=args.prompt or "",
        negative_prompt=args.negative,
        seed=args.seed,
        width=width if args.width is None else args.width,
        height=height if args.height is None else args.height,
        steps=args.steps,
        guidance_scale=args.guidance,
        sampler=args.sampler,
        shift=args.shift,
        pag_scale=args.pag,
        pag_layers=args.pag_layers,
        image=args.image,
        strength=args.strength,
        mask=args.mask,
        control_image=args.control_image,
        control_scale=args.control_scale,
    )
    jobs = [common] if args.prompt_file is None else [job.or_else(common) for job in read_prompt_file(args.prompt_file)]
    for job in jobs:
        _check(job)
    return jobs


def _check_output(path: Path) -> None:
    """Raise InputError where no PNG file could be written. Changes nothing."""
    if path.suffix.lower() != ".png":
        raise InputError(f"{path}: pictures are written as PNG, name a .png file")
    try:
        if path.exists():
            path.open("r+b").close()
        else:
            tempfile.TemporaryFile(dir=next(folder for folder in path.absolute().parents if folder.exists())).close()
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror}): name a PNG file in a folder that you can write to"
        ) from error


def _check(job: Job) -> None:
    """Raise InputError for what no model is needed to see."""
    check_text(job.prompt)
    check_text(job.negative_prompt or "", "the negative prompt")
    latent_size(1024 if job.width is None else job.width, 1024 if job.height is None else job.height)
    redrawn_share(job.image, job.strength, job.mask)
    if job.pag_layers is not None:
        block_numbers(job.pag_layers)
    for name in PICTURES:
        _picture(job, name)


def _picture(job: Job, name: str) -> Image.Image | None:
    path = getattr(job, name)
    return None if path is None else open_picture(path)


def _control_picture(job: Job, soft_edge_kind: str | None) -> Picture | None:
    picture = _picture(job, "control_image")
    if picture is None or soft_edge_kind is None:
        return picture
    edges = torch.from_numpy(np.array(eight_bit(picture).convert("L"))) / 255.0
    return soft_edge(edges[None, None], thin=soft_edge_kind == "thin")


def _source(args: argparse.Namespace) -> str | Path | dict[str, Path]:
    files = {name: getattr(args, name) for name in (*PARTS, "tokenizer") if getattr(args, name) is not None}
    if files and args.pipeline:
        raise InputError("give either --pipeline or the single model files")
    return files or args.pipeline or "nano"


def _model_name(source: str | Path | dict[str, Path]) -> str:
    path = source["transformer"] if isinstance(source, dict) else Path(source)
    return path.stem if path.is_file() else path.name


def _seeded(job: Job) -> Job:
    return job if job.seed is not None else replace(job, seed=torch.Generator().seed() % 2**32)


def _settings(pipeline: SanaPipeline, job: Job) -> SamplingDefaults:
    width, height = job.width, job.height
    if width is None and height is None:
        width, height = natural_size(None, _picture(job, "image"))
    return pipeline.settings(
        width=width,
        height=height,
        steps=job.steps,
        guidance_scale=job.guidance_scale,
        sampler=job.sampler,
        shift=job.shift,
    )


def _draw(
    pipeline: SanaPipeline, job: Job, settings: SamplingDefaults, args: argparse.Namespace, label: str
) -> list[Image.Image]:
    steps = len(pipeline.sigmas(settings, redrawn_share(job.image, job.strength, job.mask))) - 1
    pictures = pipeline(
        job.prompt,
        job.negative_prompt or "",
        **asdict(settings),
        instruction=None if args.instruction == "none" else args.instruction,
        negative_mask=args.negative_mask,
        seed=job.seed,
        pag_scale=job.pag_scale or 0.0,
        pag_layers=None if job.pag_layers is None else block_numbers(job.pag_layers),
        image=_picture(job, "image"),
        strength=job.strength,
        mask=_picture(job, "mask"),
        control_image=_control_picture(job, args.soft_edge),
        control_scale=1.0 if job.control_scale is None else job.control_scale,
        batch_size=args.batch,
        callback=None if args.quiet else progress_bar(label, steps),
    )
    return cast(list[Image.Image], pictures)


def progress_bar(label: str, total: int) -> StepCallback:
    """A sampler's callback that draws a bar on stderr."""

    def show(index: int, *_: object) -> None:
        done = index + 1
        filled = BAR * done // total
        sys.stderr.write(
            f"\r{label} [{'#' * filled}{'.' * (BAR - filled)}] {done}/{total}{chr(10) if done == total else ''}"
        )
        sys.stderr.flush()

    return show
