"""The options of the command line and the forms of their values."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import NoReturn

import torch

from ..config import POSITIONS
from ..pipeline.pipeline import NEGATIVE_MASKS, SAMPLERS
from ..precision import TRAINED_PRECISIONS
from ..transformer.controlnet import ORDERS

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SOFT_EDGES = ("soft", "thin")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"sana: error: {message} (--help lists the options)\n")


def parser() -> argparse.ArgumentParser:
    p = _Parser(
        prog="python -m sana_core",
        description="Draw pictures with SANA; without model files, with the small embedded model.",
    )
    p.add_argument("prompt", nargs="?", help="what to draw")
    p.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("sana.png"),
        help="PNG file; several are numbered (default: %(default)s)",
    )
    p.add_argument(
        "--prompt-file",
        type=Path,
        help=".txt: a prompt per line; .jsonl: objects with own settings; .json: a list of them",
    )
    p.add_argument("--negative", default="", help="what not to draw")
    p.add_argument(
        "--instruction", default="default", help="text before the prompt: default, diffusers, none, or an own one"
    )
    p.add_argument(
        "--negative-mask",
        choices=NEGATIVE_MASKS,
        default="own",
        help="own: its tokens alone; positive: padded to the prompt's",
    )
    p.add_argument("--size", type=_size, help="width x height in pixels, such as 1024x768, or one number for a square")
    p.add_argument("--width", type=int, help="pixels, a multiple of 32")
    p.add_argument("--height", type=int, help="pixels, a multiple of 32")
    p.add_argument("--steps", type=int, help="sampling steps")
    p.add_argument("--guidance", type=_number, help="how strongly to follow the prompt; 1 turns guidance off")
    p.add_argument("--shift", type=_number, help="flow shift")
    p.add_argument("--sampler", choices=list(SAMPLERS))
    p.add_argument(
        "--pag", type=_number, metavar="SCALE", help="perturbed-attention guidance, such as 2 (default: 0, off)"
    )
    p.add_argument(
        "--pag-layers", metavar="NUMBERS", help="the blocks it perturbs, such as 8 or 8,9 (default: the model's own)"
    )
    p.add_argument(
        "--image", metavar="FILE", help="picture to start from; without a size its own, cut down to multiples of 32"
    )
    p.add_argument("--strength", type=_number, help="how much of it is redrawn, up to 1 (default: 0.6; 1 with a mask)")
    p.add_argument("--mask", metavar="FILE", help="picture that is bright where the start picture is redrawn")
    p.add_argument("--controlnet", type=Path, metavar="FILE", help="SANA ControlNet: file or folder")
    p.add_argument("--control-image", metavar="FILE", help="picture that it follows, such as an edge map")
    p.add_argument(
        "--soft-edge", choices=SOFT_EDGES, help="prepare it as in the training: soft edges (HED) or thin ones (Canny)"
    )
    p.add_argument("--control-scale", type=_number, help="how closely (default: 1)")
    p.add_argument(
        "--control-order", choices=ORDERS, default=ORDERS[0], help="how it is connected (default: %(default)s)"
    )
    p.add_argument("--seed", type=int, help="the same seed gives the same picture (default: another one each time)")
    p.add_argument("--batch", type=int, default=1, help="pictures per prompt")
    p.add_argument("--pipeline", help="diffusers pipeline folder, nano or nano-sprint (the embedded models)")
    p.add_argument("--transformer", type=Path, help="transformer: .safetensors, .pth or folder")
    p.add_argument("--autoencoder", type=Path, help="DC-AE autoencoder: file or folder")
    p.add_argument("--text-encoder", type=Path, help="Gemma-2-2B: file or folder")
    p.add_argument("--tokenizer", type=Path, help="its tokenizer, where the text encoder's file has none inside")
    p.add_argument(
        "--variant",
        choices=list(POSITIONS),
        help="class of a transformer file that does not tell it (2k and 4k models)",
    )
    p.add_argument(
        "--trained-precision",
        choices=TRAINED_PRECISIONS,
        help="how a transformer file that does not tell it was trained",
    )
    p.add_argument(
        "--lora",
        action="append",
        type=_lora,
        default=[],
        metavar="FILE[:STRENGTH]",
        help="LoRA to add (strength 1); may be repeated",
    )
    p.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: cuda if there is one)")
    p.add_argument(
        "--dtype",
        choices=list(DTYPES),
        help="of the transformer (default: float32 on the CPU, the file's own on a GPU)",
    )
    p.add_argument(
        "--offload",
        action="store_true",
        help="networks on the CPU, each on the GPU for its turn; tells the peak of memory",
    )
    p.add_argument(
        "--quiet", action="store_true", help="no progress bar, no file names, no word on what was loaded; warnings stay"
    )
    p.epilog = "Size, steps, guidance, shift and sampler are the model's own where they are not given."
    return p


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    try:
        return int(width), int(height or width)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 1024x768 or 512") from None


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number")
    return value


def _lora(text: str) -> tuple[Path, float]:
    path, _, strength = text.rpartition(":")
    try:
        float(strength)
    except ValueError:  # no number there: a drive letter's colon
        return Path(text), 1.0
    return Path(path or text), _number(strength) if path else 1.0
