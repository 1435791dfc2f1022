"""Command line: `python -m sana_core "a red apple" -o apple.png`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import NoReturn, cast

import torch
from PIL import Image

from .config import POSITIONS, SamplingDefaults
from .errors import InputError, SanaError
from .images import save_png
from .latents import latent_size
from .pipeline import SAMPLERS, SanaPipeline, load_pipeline
from .prompt_file import Job, read_prompt_file
from .samplers.flow_euler import StepCallback
from .sources import PARTS

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
BAR = 30  # characters


def main(argv: Sequence[str] | None = None) -> int:
    """Draw what the arguments ask for. Returns the exit code: 0, or 2 after one line on stderr."""
    try:
        args = parser().parse_args(argv)
        draw_all(args)
    except (SanaError, OSError) as error:
        sys.stderr.write(f"sana: error: {error}\n")
        return 2
    return 0


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
    p.add_argument("--size", type=_size, help="width x height in pixels, such as 1024x768, or one number for a square")
    p.add_argument("--width", type=int, help="pixels, a multiple of 32")
    p.add_argument("--height", type=int, help="pixels, a multiple of 32")
    p.add_argument("--steps", type=int, help="sampling steps")
    p.add_argument("--guidance", type=float, help="how strongly to follow the prompt; 1 turns guidance off")
    p.add_argument("--shift", type=float, help="flow shift")
    p.add_argument("--sampler", choices=list(SAMPLERS))
    p.add_argument("--seed", type=int, help="the same seed gives the same picture (default: another one each time)")
    p.add_argument("--batch", type=int, default=1, help="pictures per prompt")
    p.add_argument("--pipeline", type=Path, help="diffusers pipeline folder")
    p.add_argument("--transformer", type=Path, help="transformer: .safetensors, .pth or folder")
    p.add_argument("--autoencoder", type=Path, help="DC-AE autoencoder: file or folder")
    p.add_argument("--text-encoder", type=Path, help="Gemma-2-2B: file or folder")
    p.add_argument("--tokenizer", type=Path, help="its tokenizer, where the text encoder's file has none inside")
    p.add_argument("--variant", choices=list(POSITIONS), help="class of a transformer file that does not tell it (2k and 4k models)")
    p.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: cuda if there is one)")
    p.add_argument("--dtype", choices=list(DTYPES), help="of the transformer (default: float32 on the CPU, the file's own on a GPU)")
    p.add_argument("--quiet", action="store_true", help="no progress bar, no file names")
    p.epilog = "Size, steps, guidance, shift and sampler are the model's own where they are not given."
    return p


def draw_all(args: argparse.Namespace) -> None:
    """Check everything that can be checked without the model, load it, draw and save."""
    jobs, source = _jobs(args), _source(args)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    pipeline = load_pipeline(source, device=args.device, dtype=DTYPES.get(args.dtype), variant=args.variant)
    dtype = str(pipeline.transformer.scale_shift_table.dtype).removeprefix("torch.")
    plan = [(_seeded(job), _settings(pipeline, job)) for job in jobs]
    number = 0
    for index, (job, settings) in enumerate(plan):
        for item, picture in enumerate(_draw(pipeline, job, settings, args, f"{index + 1}/{len(plan)}")):
            number += 1
            alone = args.prompt_file is None and args.batch == 1
            path = args.output if alone else args.output.with_stem(f"{args.output.stem}-{number:04d}")
            drawn_by = {"model": _model_name(source), "variant": args.variant, "dtype": dtype, "instruction": args.instruction}
            save_png(picture, path, {**asdict(job), **asdict(settings), "batch_size": args.batch, "batch_index": item, **drawn_by})
            if not args.quiet:
                sys.stdout.write(f"{path}\n")


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    try:
        return int(width), int(height or width)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 1024x768 or 512") from None


def _jobs(args: argparse.Namespace) -> list[Job]:
    if (args.prompt is None) == (args.prompt_file is None):
        raise InputError("give either a prompt or --prompt-file")
    if args.output.suffix.lower() != ".png":
        raise InputError(f"{args.output}: pictures are written as PNG, name a .png file")
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
    )
    jobs = [common] if args.prompt_file is None else [job.or_else(common) for job in read_prompt_file(args.prompt_file)]
    for job in jobs:
        latent_size(1024 if job.width is None else job.width, 1024 if job.height is None else job.height)
    return jobs


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
    return pipeline.settings(
        width=job.width, height=job.height, steps=job.steps, guidance_scale=job.guidance_scale, sampler=job.sampler, shift=job.shift
    )


def _draw(pipeline: SanaPipeline, job: Job, settings: SamplingDefaults, args: argparse.Namespace, label: str) -> list[Image.Image]:
    pictures = pipeline(
        job.prompt,
        job.negative_prompt or "",
        **asdict(settings),
        instruction=None if args.instruction == "none" else args.instruction,
        seed=job.seed,
        batch_size=args.batch,
        callback=None if args.quiet else progress_bar(label, settings.steps),
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
