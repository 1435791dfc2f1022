"""The settings of a training, checked before anything is loaded."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import InputError

OPTIMIZERS = ("adamw", "adamw8bit", "came", "came8bit")
FREE_TO_CHANGE = ("steps", "at_once", "checkpointing", "minutes", "log_every", "sample_every", "save_seconds", "shard")
"""What may differ when a training goes on: nothing that its steps depend on."""
MANY, LARGE, SEEDS = 10**9, 1e30, 2**64
RANGES: dict[str, tuple[float, float]] = {
    "steps": (1, MANY),
    "batch": (1, MANY),
    "at_once": (1, MANY),
    "warmup": (0, MANY),
    "log_every": (1, MANY),
    "sample_every": (0, MANY),
    "seed": (0, SEEDS - 1),
    "decay": (0, 1),
    "caption_dropout": (0, 1),
    "average": (0, 1),
    "weight_decay": (0, LARGE),
    "guidance": (0, LARGE),
    "minutes": (0, LARGE),
    "save_seconds": (0, LARGE),
    "time_mean": (-LARGE, LARGE),
}
"""The least and the most that each may be."""


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How a network is trained; the defaults are upstream's for a LoRA.

    steps: altogether, over all runs. batch: pictures of a step, over all processes; at_once: of them, how many are
    computed together in one process, which decides the memory and not the result. pixels: side of the square among the
    sizes of the pictures; None: the model's own. buckets: pictures keep about their shape, else all are squares. rate:
    learning rate. warmup: steps in which it rises. decay: share of the steps in which it falls at the end. clip: the
    longest gradient. caption_dropout: share of captions that are left out, for guidance. caption_temperature: how
    strongly captions with higher scores are preferred. shift: of the times; None: the model's. time_mean, time_std: of
    their logits. guidance: the scale that Sprint is given. average: decay of the moving average of the weights, 0 for
    none. checkpointing: compute the blocks twice, for memory. shard: divide everything over the processes (FSDP2).
    minutes: of this run.
    """

    steps: int = 500
    batch: int = 4
    at_once: int = 1
    pixels: int | None = None
    buckets: bool = True
    optimizer: str = "adamw"
    rate: float = 1e-4
    weight_decay: float = 0.0
    warmup: int = 0
    decay: float = 0.0
    clip: float = 0.1
    caption_dropout: float = 0.1
    caption_temperature: float = 0.1
    shift: float | None = None
    time_mean: float = 0.0
    time_std: float = 1.0
    guidance: float = 4.5
    average: float = 0.0
    checkpointing: bool = True
    shard: bool = False
    seed: int = 0
    minutes: float | None = None
    log_every: int = 10
    sample_every: int = 100
    save_seconds: float = 300.0

    def __post_init__(self) -> None:
        for name, (least, most) in RANGES.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise InputError(f"{_option(name)} is {value}, expected {_range(least, most)}")
        if self.batch % self.at_once:
            raise InputError(
                f"--batch is {self.batch} and --at-once {self.at_once}: a batch has to be a multiple of what is "
                "computed at once"
            )
        for name in ("rate", "clip", "caption_temperature", "time_std", "shift"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"{_option(name)} is {value}, expected more than 0")
        if self.optimizer not in OPTIMIZERS:
            raise InputError(f'--optimizer "{self.optimizer}", expected one of {", ".join(OPTIMIZERS)}')
        if self.pixels is not None and (self.pixels < 32 or self.pixels % 32):
            raise InputError(f"--pixels is {self.pixels}, expected a multiple of 32, such as 512 or 1024")

    def recipe(self) -> dict[str, Any]:
        """What makes two trainings the same one."""
        values = {name: value for name, value in asdict(self).items() if name not in FREE_TO_CHANGE}
        return {name: "" if value is None else value for name, value in values.items()}


def _range(least: float, most: float) -> str:
    return f"at least {least}" if most == LARGE and least == 0 else f"from {least} to {most}"


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
