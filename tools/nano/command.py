"""The arguments that all stages share."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch

from sana_core.device import pick_device

from .sizes import SIZES, Size, Stage

Arguments, Result = ParamSpec("Arguments"), TypeVar("Result")

CPU = torch.device("cpu")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class Command:
    """One stage's call. minutes: then it saves and stops, and the same command continues. workers: processes that make
    captions.

    compile: the autoencoder through torch.compile. begin: an autoencoder whose weights the stage autoencoder begins
    with.
    """

    work: Path
    size: Size
    device: torch.device = CPU
    dtype: torch.dtype = torch.float32
    minutes: float | None = None
    steps: int | None = None
    workers: int = 0
    seed: int = 0
    compile: bool = False
    begin: Path | None = None

    def steps_of(self, stage: Stage) -> int:
        """Over all runs: as asked for, else the stage's own number."""
        return self.steps or stage.steps

    def autocast(self) -> torch.autocast:
        """Where the networks compute: matrix products in `dtype`, weights and sums in float32."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def compiled(self, function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        """`function`, compiled for each shape it meets if that was asked for."""
        return torch.compile(function, dynamic=False) if self.compile else function


def parser(description: str | None) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("work", type=Path, help="folder for everything that is made, outside the repository")
    made.add_argument("--size", choices=SIZES, default="256")
    made.add_argument("--device", help="cpu or cuda; the GPU if there is one")
    made.add_argument("--dtype", choices=DTYPES, help="bfloat16 on a GPU, float32 on the CPU where nothing is said")
    made.add_argument("--minutes", type=float, help="save and stop after this time; the same command continues")
    made.add_argument("--steps", type=int, help="in place of the size's own number, over all runs")
    made.add_argument("--workers", type=int, default=0, help="processes that make captions ahead of time")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument(
        "--compile",
        action="store_true",
        help="the autoencoder through torch.compile: about twice as fast after a minute",
    )
    return made


def parse(description: str | None) -> Command:
    return from_arguments(parser(description).parse_args())


def from_arguments(args: argparse.Namespace) -> Command:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    device = pick_device(args.device)
    torch.set_float32_matmul_precision("high")  # float32 in TF32 on a GPU; nothing on the CPU
    torch.backends.cudnn.allow_tf32 = True
    dtype = args.dtype or ("bfloat16" if device.type == "cuda" else "float32")
    return Command(
        work=args.work, size=SIZES[args.size], device=device, dtype=DTYPES[dtype], minutes=args.minutes,
        steps=args.steps,
        workers=args.workers, seed=args.seed, compile=args.compile,
    )  # fmt: skip
