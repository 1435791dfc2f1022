"""Command line: `python -m sana_core "a red apple" -o apple.png`."""

from __future__ import annotations

import argparse
import logging
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NoReturn, cast

import torch
from PIL import Image

from .config import POSITIONS, SamplingDefaults
from .errors import InputError, SanaError
from .images import natural_size, open_picture, save_png
from .latents import latent_size
from .lora import Lora, apply_lora, load_lora
from .offload import peak_memory
from .pipeline import NEGATIVE_MASKS, SAMPLERS, SanaPipeline, load_pipeline
from .precision import TRAINED_PRECISIONS
from .prompt_file import PICTURES, Job, read_prompt_file
from .samplers.flow_euler import StepCallback
from .samplers.guidance import block_numbers
from .sources import PARTS
from .start import redrawn_share
from .text.tokenizer import check_text
from .transformer.controlnet import ORDERS

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
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


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"sana: error: {message} (--help lists the options)\n")


def parser() -> argparse.ArgumentParser:
    p = _Parser(prog="python -m sana_core", description="Draw pictures with SANA; without model files, with the small embedded model.")
    p.add_argument("prompt", nargs="?", help="what to draw")
    p.add_argument("-o", "--output", type=Path, default=Path("sana.png"), help="PNG file; several are numbered (default: %(default)s)")
    p.add_argument("--prompt-file", type=Path, help=".txt: a prompt per line; .jsonl: objects with own settings; .json: a list of them")
    p.add_argument("--negative", default="", help="what not to draw")
    p.add_argument("--instruction", default="default", help="text before the prompt: default, diffusers, none, or an own one")
    p.add_argument("--negative-mask", choices=NEGATIVE_MASKS, default="own", help="own: its tokens alone; positive: padded to the prompt's")
    p.add_argument("--size", type=_size, help="width x height in pixels, such as 1024x768, or one number for a square")
    p.add_argument("--width", type=int, help="pixels, a multiple of 32")
    p.add_argument("--height", type=int, help="pixels, a multiple of 32")
    p.add_argument("--steps", type=int, help="sampling steps")
    p.add_argument("--guidance", type=_number, help="how strongly to follow the prompt; 1 turns guidance off")
    p.add_argument("--shift", type=_number, help="flow shift")
    p.add_argument("--sampler", choices=list(SAMPLERS))
    p.add_argument("--pag", type=_number, metavar="SCALE", help="perturbed-attention guidance, such as 2 (default: 0, off)")
    p.add_argument("--pag-layers", metavar="NUMBERS", help="the blocks it perturbs, such as 8 or 8,9 (default: the model's own)")
    p.add_argument("--image", metavar="FILE", help="picture to start from; without a size its own, cut down to multiples of 32")
    p.add_argument("--strength", type=_number, help="how much of it is redrawn, up to 1 (default: 0.6; 1 with a mask)")
    p.add_argument("--mask", metavar="FILE", help="picture that is bright where the start picture is redrawn")
    p.add_argument("--controlnet", type=Path, metavar="FILE", help="SANA ControlNet: file or folder")
    p.add_argument("--control-image", metavar="FILE", help="picture that it follows, such as an edge map")
    p.add_argument("--control-scale", type=_number, help="how closely (default: 1)")
    p.add_argument("--control-order", choices=ORDERS, default=ORDERS[0], help="how it is connected (default: %(default)s)")
    p.add_argument("--seed", type=int, help="the same seed gives the same picture (default: another one each time)")
    p.add_argument("--batch", type=int, default=1, help="pictures per prompt")
    p.add_argument("--pipeline", type=Path, help="diffusers pipeline folder")
    p.add_argument("--transformer", type=Path, help="transformer: .safetensors, .pth or folder")
    p.add_argument("--autoencoder", type=Path, help="DC-AE autoencoder: file or folder")
    p.add_argument("--text-encoder", type=Path, help="Gemma-2-2B: file or folder")
    p.add_argument("--tokenizer", type=Path, help="its tokenizer, where the text encoder's file has none inside")
    p.add_argument("--variant", choices=list(POSITIONS), help="class of a transformer file that does not tell it (2k and 4k models)")
    p.add_argument("--trained-precision", choices=TRAINED_PRECISIONS, help="how a transformer file that does not tell it was trained")
    p.add_argument(
        "--lora", action="append", type=_lora, default=[], metavar="FILE[:STRENGTH]", help="LoRA to add (strength 1); may be repeated"
    )
    p.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: cuda if there is one)")
    p.add_argument("--dtype", choices=list(DTYPES), help="of the transformer (default: float32 on the CPU, the file's own on a GPU)")
    p.add_argument("--offload", action="store_true", help="networks on the CPU, each on the GPU for its turn; tells the peak of memory")
    p.add_argument("--quiet", action="store_true", help="no progress bar, no file names, no word on what was loaded; warnings stay")
    p.epilog = "Size, steps, guidance, shift and sampler are the model's own where they are not given."
    return p


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
            save_png(picture, path, {**given, **asdict(settings), "batch_size": args.batch, "batch_index": item, **drawn_by})
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
        record |= {"controlnet": name, "control_order": pipeline.controlnet.order}
    return record


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number")
    return value


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    try:
        return int(width), int(height or width)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 1024x768 or 512") from None


def _lora(text: str) -> tuple[Path, float]:
    path, _, strength = text.rpartition(":")
    try:
        float(strength)
    except ValueError:  # no number there: a drive letter's colon
        return Path(text), 1.0
    return Path(path or text), _number(strength) if path else 1.0


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
        raise InputError(f"{path} cannot be written ({error.strerror}): name a PNG file in a folder that you can write to") from error


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
        width=width, height=height, steps=job.steps, guidance_scale=job.guidance_scale, sampler=job.sampler, shift=job.shift
    )


def _draw(pipeline: SanaPipeline, job: Job, settings: SamplingDefaults, args: argparse.Namespace, label: str) -> list[Image.Image]:
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
        control_image=_picture(job, "control_image"),
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
        sys.stderr.write(f"\r{label} [{'#' * filled}{'.' * (BAR - filled)}] {done}/{total}{chr(10) if done == total else ''}")
        sys.stderr.flush()

    return show
