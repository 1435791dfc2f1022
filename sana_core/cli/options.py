"""The options of `draw`. Those that describe a picture are stored under the names of `Request`'s fields."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from ..config import POSITIONS
from ..fast import FAST
from ..pipeline.request import NEGATIVE_MASKS
from ..precision import TRAINED_PRECISIONS
from ..samplers.methods import SAMPLERS
from ..transformer.controlnet import ORDERS
from . import arguments

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SOFT_EDGES = ("soft", "thin")
DEFAULT_OUTPUT = Path("sana.png")


def add_options(parser: argparse.ArgumentParser) -> None:
    """All of them. Size, steps, guidance, shift and sampler are the model's own by default."""
    _add_prompt(parser)
    _add_sampling(parser)
    _add_pictures(parser)
    _add_model(parser)


def _add_prompt(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("prompt", nargs="?", help="what to draw")
    add(
        "-o",
        "--output",
        type=Path,
        help="PNG file; a file of that name is replaced, which is said unless --quiet. The pictures of --batch and "
        "--prompt-file get numbers, after those that are there (default: sana.png, numbered if it is there)",
    )
    add(
        "--preview",
        type=Path,
        metavar="FILE",
        help="a small picture (PNG, JPEG, WebP) that is written after each step, to see what comes",
    )
    add(
        "--prompt-file",
        metavar="FILE",
        help=".txt: a prompt per line; .jsonl: objects with own settings; .json: a list of them; -: one of these from "
        "stdin",
    )
    add("--negative", dest="negative_prompt", default="", help="what not to draw")
    add(
        "--instruction",
        type=arguments.instruction,
        default="default",
        help="text before the prompt: default, diffusers, none, or an own one",
    )
    add(
        "--negative-mask",
        choices=NEGATIVE_MASKS,
        default="own",
        help="length of the negative prompt: its own, or padded to the prompt's",
    )
    add("--seed", type=int, help="the same seed gives the same picture (default: another one each time)")
    add("--batch", dest="batch_size", type=int, default=1, help="pictures per prompt")
    add(
        "--quiet", action="store_true", help="no progress bar, no file names, no word on what was loaded; warnings stay"
    )


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("sampling (default: the model's own)").add_argument
    add("--size", type=arguments.size, help="width x height in pixels, such as 1024x768, or one number for a square")
    add("--width", type=int, help="pixels, a multiple of 32")
    add("--height", type=int, help="pixels, a multiple of 32")
    add("--steps", type=int, help="sampling steps")
    add(
        "--guidance",
        dest="guidance_scale",
        type=arguments.number,
        help="how strongly to follow the prompt; 1 turns guidance off",
    )
    add("--shift", type=arguments.number, help="flow shift")
    add("--sampler", choices=list(SAMPLERS))
    add(
        "--pag",
        dest="pag_scale",
        type=arguments.number,
        default=0.0,
        metavar="SCALE",
        help="perturbed-attention guidance, such as 2 (default: 0, off)",
    )
    add(
        "--pag-layers",
        type=arguments.blocks,
        metavar="NUMBERS",
        help="the blocks it perturbs, such as 8 or 8,9 (default: the model's own)",
    )


def _add_pictures(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("pictures to start from or to follow").add_argument
    add("--image", metavar="FILE", help="picture to start from; without a size its own, cut down to multiples of 32")
    add("--strength", type=arguments.number, help="how much of it is redrawn, up to 1 (default: 0.6; 1 with a mask)")
    add("--mask", metavar="FILE", help="picture that is bright where the start picture is redrawn")
    add("--controlnet", type=Path, metavar="FILE", help="SANA ControlNet: file or folder")
    add("--control-image", metavar="FILE", help="picture that it follows, such as an edge map")
    add(
        "--soft-edge",
        choices=SOFT_EDGES,
        help="prepare the control picture as in the training: soft edges (HED) or thin ones (Canny)",
    )
    add("--control-scale", type=arguments.number, default=1.0, help="how closely (default: 1)")
    add("--control-order", choices=ORDERS, default=ORDERS[0], help="how it is connected (default: %(default)s)")


def add_unstated(parser: argparse._ActionsContainer) -> None:
    """What the file of a transformer may not tell, for every command that reads one."""
    add = parser.add_argument
    add(
        "--variant",
        choices=list(POSITIONS),
        help="class of a transformer file that does not state it (2k and 4k models)",
    )
    add(
        "--trained-precision",
        choices=TRAINED_PRECISIONS,
        help="how the transformer was trained, for a file that does not state it",
    )


def _add_model(parser: argparse.ArgumentParser) -> None:
    model = parser.add_argument_group("model")
    add = model.add_argument
    add("--pipeline", help="diffusers pipeline folder, nano or nano-sprint (the embedded models)")
    add("--transformer", type=Path, help="transformer: .safetensors, .gguf, .pth or folder")
    add("--autoencoder", type=Path, help="DC-AE autoencoder: file or folder")
    add("--text-encoder", type=Path, help="Gemma-2-2B: file or folder")
    add("--tokenizer", type=Path, help="its tokenizer, if the text encoder's file has none inside")
    add_unstated(model)
    add(
        "--lora",
        action="append",
        type=arguments.lora,
        default=[],
        metavar="FILE[:STRENGTH]",
        help="LoRA to add (strength 1); may be repeated",
    )
    add("--device", help="cpu, cuda, cuda:1 ... (default: a GPU if there is one)")
    add(
        "--dtype",
        choices=list(DTYPES),
        help="of the transformer (default: float32 on the CPU, the file's own on a GPU)",
    )
    add(
        "--offload",
        action="store_true",
        help="networks on the CPU, each on the GPU for its turn; tells the peak of memory",
    )
    add(
        "--fast",
        choices=FAST,
        default="auto",
        help="auto: fused kernels and CUDA graphs where the GPU has them; max: compiled blocks besides, which takes "
        "some minutes at the first picture; off: plain PyTorch (default: %(default)s)",
    )
