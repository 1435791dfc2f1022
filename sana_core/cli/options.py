"""The options of `draw`. Those that describe a picture are stored under the names of `Request`'s fields."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from ..config import POSITIONS
from ..fast import FAST
from ..pictures.saving import QUALITY
from ..pipeline.request import NEGATIVE_MASKS
from ..precision import TRAINED_PRECISIONS
from ..samplers.methods import SAMPLERS
from ..styles import NO_STYLE, STYLES
from ..transformer.controlnet import ORDERS
from . import arguments
from .shield import add_shield

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SOFT_EDGES = ("soft", "thin")


def add_options(parser: argparse.ArgumentParser) -> None:
    """All of them. Size, steps, guidance, shift and sampler are the model's own by default."""
    _add_prompt(parser.add_argument_group("what to draw"))
    _add_output(parser.add_argument_group("where the pictures go"))
    _add_best_of(parser.add_argument_group("the best of many"))
    _add_model(parser.add_argument_group("which model"))
    add_pictures(parser.add_argument_group("pictures to start from or to follow"))
    add_shield(parser.add_argument_group("a check of the prompts before anything is drawn"))
    add_sampling(parser.add_argument_group("how to sample (default: as the model was released)"))
    add_machine(parser.add_argument_group("the machine"))


def _add_prompt(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("prompt", nargs="?", help="what to draw, in quotes")
    add("-p", "--prompt", dest="prompt_option", metavar="PROMPT", help="the same as an option")
    add_picture_settings(group)
    add("-S", "--seed", type=int, help="the same seed gives the same picture (default: another one each time)")
    add("-b", "--batch", dest="batch_size", type=int, default=1, metavar="NUMBER", help="pictures per prompt")
    add(
        "--prompt-file",
        metavar="FILE",
        help="many prompts. .txt: one per line; .jsonl: objects with their own settings; .json: a list of them; "
        "-: one of these from stdin",
    )
    add(
        "-i",
        "--interactive",
        action="store_true",
        help="keep the model loaded and ask for one prompt after the other; /help there lists the commands",
    )


def add_picture_settings(group: argparse._ArgumentGroup) -> None:
    """What a picture is like, besides its prompt and its seed."""
    add = group.add_argument
    add("-n", "--negative", dest="negative_prompt", default="", metavar="PROMPT", help="what not to draw")
    add(
        "--style",
        type=arguments.style,
        metavar="NAME",
        help=f"words around the prompt, as in NVIDIA's demo: {', '.join(name for name in STYLES if name != NO_STYLE)}",
    )
    add(
        "-s",
        "--size",
        type=arguments.size,
        help="width x height in pixels, such as 1024x768, or one number for a square (default: the model's own)",
    )
    add("-W", "--width", type=int, help="in pixels, a multiple of 32; in place of that in --size")
    add("-H", "--height", type=int, help="in pixels, a multiple of 32; in place of that in --size")
    add("--steps", type=int, help="more steps take longer (default: the model's own)")
    add(
        "--guidance",
        "--cfg",
        dest="guidance_scale",
        type=arguments.number,
        metavar="NUMBER",
        help="how strongly to follow the prompt; 1 turns guidance off (default: the model's own)",
    )


def _add_output(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="PNG, JPEG or WebP by its ending; {seed} in it stands for the seed. Several pictures get numbers. A name "
        "that is taken gets a number, too (default: sana_{seed}.png)",
    )
    add("--overwrite", action="store_true", help="replace files that are there")
    add("--quality", type=arguments.quality, help=f"of JPEG and WebP, 1 to 100 (default: {QUALITY})")
    add(
        "--preview",
        type=Path,
        metavar="FILE",
        help="a small picture (PNG, JPEG, WebP) that is written after each step",
    )
    add("--json", action="store_true", help="a JSON object per picture on stdout, or one with the error")
    add("-q", "--quiet", action="store_true", help="no progress, no file names, no hints; warnings stay")


def _add_best_of(group: argparse._ArgumentGroup) -> None:
    add_best_of(group)
    group.add_argument(
        "--scores",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a plot of the expected best score over the number of candidates (.png), or all scores (.json); may be "
        "repeated",
    )


def add_best_of(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--best-of", type=int, metavar="N", help="draw N candidates of each prompt, --batch at once, and save the best")
    add("--keep", type=int, metavar="K", help="how many of them are saved, the best first (default: 1)")
    add("--scorer", metavar="SCORER", help="what says how good a picture is: clip:FOLDER, nvila:FOLDER, imscore:NAME")
    add(
        "--verifier-python",
        metavar="FILE",
        help="Python of an environment with transformers 4.46, for nvila (default: $SANA_VERIFIER_PYTHON)",
    )


def _add_model(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--list-models", action="store_true", help="names, sizes and licences of the released models, and end")
    add_model(group)


def add_model(group: argparse._ArgumentGroup) -> None:
    """The networks and the LoRAs on them."""
    add = group.add_argument
    add_files(group)
    add(
        "--lora",
        action="append",
        type=arguments.lora,
        default=[],
        metavar="FILE[:STRENGTH]",
        help="LoRA to add (strength 1); may be repeated",
    )
    add_unstated(group)


def add_files(group: argparse._ActionsContainer) -> None:
    """Where the networks are, for every command that draws."""
    add = group.add_argument
    add(
        "-m",
        "--model",
        metavar="NAME",
        help="a released model, which is downloaded if it is not there, or nano or nano-sprint, the embedded models "
        "(default: nano)",
    )
    add(
        "--models-dir",
        type=Path,
        metavar="FOLDER",
        help="where released models are looked for and downloaded to, such as ComfyUI's models folder (default: the "
        "cache of huggingface_hub)",
    )
    add("-y", "--yes", action="store_true", help="download without asking")
    add("--pipeline", help="diffusers pipeline folder, nano or nano-sprint")
    add("--transformer", type=Path, metavar="FILE", help="SANA: .safetensors, .gguf, .pth or folder")
    add("--autoencoder", type=Path, metavar="FILE", help="DC-AE: file or folder")
    add("--text-encoder", type=Path, metavar="FILE", help="Gemma-2-2B: file or folder")
    add("--tokenizer", type=Path, metavar="FILE", help="its tokenizer, if it has none inside")


def add_unstated(parser: argparse._ActionsContainer) -> None:
    """What the file of a transformer may lack, for every command that reads one."""
    add = parser.add_argument
    add(
        "--variant",
        choices=list(POSITIONS),
        help="size of the pictures the transformer was trained on, if its file lacks it (2k and 4k models)",
    )
    add(
        "--trained-precision",
        choices=TRAINED_PRECISIONS,
        help="number type the transformer was trained in, if its file lacks it",
    )


def add_pictures(group: argparse._ArgumentGroup) -> None:
    """Pictures to start from or to follow, and the ControlNet."""
    add = group.add_argument
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
    add("--control-scale", type=arguments.number, default=1.0, help="how closely it is followed (default: 1)")
    add("--control-order", choices=ORDERS, default=ORDERS[0], help="how it is connected (default: %(default)s)")


def add_sampling(group: argparse._ArgumentGroup) -> None:
    """How to sample, other than the model was released."""
    add = group.add_argument
    add("--sampler", choices=list(SAMPLERS), help="how a step is made")
    add("--shift", type=arguments.number, help="flow shift: a larger one spends more steps on the outlines")
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
    add(
        "--instruction",
        type=arguments.instruction,
        default="default",
        help="text before the prompt: default, diffusers, none, or your own",
    )
    add(
        "--negative-mask",
        choices=NEGATIVE_MASKS,
        default="own",
        help="length of the negative prompt: its own, or padded to that of the prompt",
    )


def add_machine(group: argparse._ArgumentGroup) -> None:
    """The device and the number type."""
    add = group.add_argument
    add("--device", help="cpu, cuda, cuda:1 ... (default: a GPU if there is one)")
    add(
        "--dtype",
        choices=list(DTYPES),
        help="of the transformer (default: float32 on the CPU, the file's own on a GPU)",
    )
    add(
        "--offload",
        action="store_true",
        help="keep the networks on the CPU, each on the GPU for its turn; tells the peak of memory",
    )
    add(
        "--fast",
        choices=FAST,
        default="auto",
        help="auto: fused kernels and CUDA graphs where the GPU has them; max: compiled blocks besides, which takes "
        "some minutes at the first picture; off: plain PyTorch (default: %(default)s)",
    )
