"""The options of `train`. Those of its steps are stored under the names of `TrainSettings`' fields."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from . import arguments
from .options import add_files, add_unstated

KINDS = {
    "lora": "a LoRA or DoRA of a model: a subject or a style, from a few pictures",
    "controlnet": "a ControlNet of a model, from pictures and what they shall follow",
    "model": "all weights of a model: go on from a file, or begin anew",
}
TARGETS = ("attention", "qkv", "all")
DEFAULTS: dict[str, dict[str, Any]] = {  # in place of those of `TrainSettings`
    "lora": {},
    "controlnet": {"steps": 10000, "batch": 16, "average": 0.999, "sample_every": 500},
    "model": {"rate": 2e-5, "steps": 10000, "batch": 32, "warmup": 1000, "average": 0.999, "optimizer": "came",
              "sample_every": 500},
}  # fmt: skip


def add_options(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="|".join(KINDS))
    for kind, words in KINDS.items():
        own = kinds.add_parser(kind, help=words, description=f"Train {words}.")
        if isinstance(parser, arguments.Parser) and isinstance(own, arguments.Parser):
            own.as_json, own.together = parser.as_json, parser.together
        _add_kind(own, kind)


def _add_kind(parser: argparse.ArgumentParser, kind: str) -> None:
    add = parser.add_argument_group("what to train on").add_argument
    add("--data", type=Path, required=True, metavar="FOLDER",
        help="pictures with NAME.txt or NAME.json beside them, a metadata.jsonl, or tars of WebDataset")  # fmt: skip
    add("--caption", metavar="TEXT", help='of pictures that have none, such as "a photo of a zorble dog"')
    add("--pixels", type=int, metavar="SIDE", help="train at the sizes of a square of this side (default: the model's)")
    add("--no-buckets", dest="buckets", action="store_false", default=None, help="cut all pictures to squares")
    add(
        "--caption-dropout",
        type=arguments.number,
        metavar="SHARE",
        help="share of steps without the caption, which guidance needs (default: 0.1)",
    )
    add("--caption-temperature", type=arguments.number, metavar="NUMBER",
        help="of several captions, how strongly those with higher scores are preferred (default: 0.1)")  # fmt: skip
    group = parser.add_argument_group("which model")
    add_files(group)
    add_unstated(group)
    _add_kinds_own(parser, kind)
    _add_result(parser, kind)
    _add_steps(parser, kind)
    _add_machine(parser)


def _add_kinds_own(parser: argparse.ArgumentParser, kind: str) -> None:
    if kind == "lora":
        add = parser.add_argument_group("the LoRA").add_argument
        add("--rank", type=int, default=16, help="(default: %(default)s)")
        add("--alpha", type=arguments.number, help="its strength is alpha / rank (default: the rank)")
        add("--targets", choices=TARGETS, default="attention",
            help="attention: its four projections; qkv: three of them; all: attention and feed-forward "
            "(default: %(default)s)")  # fmt: skip
        add("--dora", action="store_true", help="train the lengths of the weights' rows too (DoRA)")
        add("--continue-from", type=Path, metavar="FILE", help="a LoRA of the same model and rank to go on from")
        add = parser.add_argument_group("prior preservation: keep what the class is otherwise").add_argument
        add("--prior-prompt", dest="prior_prompts", action="append", default=[], metavar="TEXT",
            help='of the class, such as "a photo of a dog", or of what else shall stay; may be repeated')  # fmt: skip
        add("--prior-data", type=Path, metavar="FOLDER", help="its pictures; what is missing is drawn first")
        add("--prior-count", type=int, default=100, metavar="NUMBER", help="how many (default: %(default)s)")
        add(
            "--prior-weight",
            type=arguments.number,
            default=1.0,
            help="weight of the loss of these pictures (default: %(default)s)",
        )
    elif kind == "controlnet":
        add = parser.add_argument_group("the ControlNet").add_argument
        add("--conditions", type=Path, metavar="FOLDER",
            help="what the pictures shall follow, under the same names (default: their edges)")  # fmt: skip
        add("--lines", choices=("soft", "thin"), help="make the condition pictures clean lines first")
        add("--depth", type=int, help="how many blocks are copied (default: 7, as released; a third of small models)")
        add("--control-order", choices=("upstream", "diffusers"), default="upstream", help="how it is connected")
        add("--layout", choices=("diffusers", "upstream"), default="diffusers",
            help="names in the file (default: %(default)s; this program reads both)")  # fmt: skip
    else:
        add = parser.add_argument_group("the model").add_argument
        add("--from-scratch", action="store_true", help="random weights in place of those of the model's file")


def _add_result(parser: argparse.ArgumentParser, kind: str) -> None:
    add = parser.add_argument_group("what comes of it").add_argument
    add("-o", "--out", type=Path, required=True, metavar="FILE", help="the file to write: .safetensors")
    add("--folder", type=Path, metavar="FOLDER",
        help="checkpoint, log, samples, cache; the same command goes on there (default: OUT.training)")  # fmt: skip
    if kind != "controlnet":
        add("--sample", dest="prompts", action="append", default=[], metavar="PROMPT",
            help="drawn every --sample-every steps and at the end, in FOLDER/samples; may be repeated")  # fmt: skip
    add("--sample-every", type=int, metavar="STEPS", help="(default: 100, or 500 for more than a LoRA)")
    add("--log-every", type=int, metavar="STEPS", help="(default: 10)")
    add("--save-seconds", type=arguments.number, metavar="SECONDS", help="the most that a kill costs (default: 300)")
    add("--overwrite", action="store_true", help="replace OUT if it is there")
    add("--plan", action="store_true", help="say what is trained, how long, and the memory it takes, and end")
    add("--json", action="store_true", help="the result as a JSON object on stdout, errors too")
    add("-q", "--quiet", action="store_true", help="no progress; warnings stay")


def _add_steps(parser: argparse.ArgumentParser, kind: str) -> None:
    add = parser.add_argument_group("how to train").add_argument
    add("--config", type=Path, metavar="FILE", help="TOML or YAML with any of these settings, or one of NVIDIA's")
    shown = {"steps": 500, "batch": 4, "rate": 1e-4, "optimizer": "adamw", "warmup": 0, "average": 0} | DEFAULTS[kind]
    add("--steps", type=int, help=f"(default: {shown['steps']})")
    add("--batch", type=int, help=f"pictures of a step (default: {shown['batch']})")
    add("--at-once", type=int, metavar="NUMBER",
        help="of them, how many are computed together: memory, not the result (default: 1)")  # fmt: skip
    add("--rate", "--lr", type=arguments.number, help=f"learning rate (default: {shown['rate']:g})")
    add("--optimizer", choices=("adamw", "adamw8bit", "came", "came8bit"),
        help=f"(default: {shown['optimizer']})")  # fmt: skip
    add("--weight-decay", type=arguments.number, help="(default: 0)")
    add(
        "--warmup",
        type=int,
        metavar="STEPS",
        help=f"over which the rate rises (default: {shown['warmup']}, at most a tenth of the steps)",
    )
    add(
        "--decay",
        type=arguments.number,
        metavar="SHARE",
        help="share of the steps, at the end, over which the rate falls (default: 0)",
    )
    add("--clip", type=arguments.number, help="the largest norm of the gradient (default: 0.1)")
    add("--average", type=arguments.number, metavar="DECAY",
        help=f"of a moving average of the weights, which is written (default: {shown['average']})")  # fmt: skip
    add("--shift", type=arguments.number, help="flow shift of the noise levels (default: the model's)")
    add("--time-mean", type=arguments.number, help="mean of the logits of the noise levels (default: 0)")
    add("--time-std", type=arguments.number, help="standard deviation of these logits (default: 1)")
    add("--guidance", type=arguments.number, help="scale that Sprint is trained with (default: 4.5)")
    add("--seed", type=int, help="(default: 0)")
    add("--minutes", type=arguments.number, help="stop after so many minutes and save; the same command goes on")


def _add_machine(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("the machine").add_argument
    add("--device", help="cpu, cuda, cuda:1 ... (default: a GPU if there is one)")
    add("--no-checkpointing", dest="checkpointing", action="store_false", default=None,
        help="keep all tensors between forward and backward: faster, and much more memory")  # fmt: skip
    add("--shard", action="store_true", default=None,
        help="on several GPUs: divide weights, gradients and optimizer over them (FSDP2)")  # fmt: skip
