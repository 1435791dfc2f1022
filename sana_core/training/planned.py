"""The plan of a job in words and numbers: what is trained, for how long, and the memory that it takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ..dcae.memory import auto_tile, encode_peak_bytes
from ..live_memory import weight_bytes
from ..presets import network_name
from ..text.load import load_text_encoder
from ..transformer.model import SanaTransformer
from .data.draws import Draws
from .data.read import read_data
from .gradient_checkpointing import checkpoint_blocks
from .jobs import Job
from .objective import FlowObjective
from .optimizers import build_optimizer
from .plan import StepMemory, step_memory, without_values
from .processes import Processes
from .settings import TrainSettings
from .sources import TrainingFiles
from .trainees import Trainee

GB = 1e9
TRAINED = {"lora": "a LoRA", "controlnet": "a ControlNet", "model": "all weights"}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """sizes: how many pictures at which (width, height). text, picture: bytes while captions and pictures are encoded,
    before the steps. memory: of a step at the largest size.
    """

    job: Job
    network: str
    pictures: int
    skipped: int
    captions: int
    sizes: dict[tuple[int, int], int]
    epoch_steps: int
    memory: StepMemory
    text: int
    picture: int

    @property
    def peak(self) -> int:
        return max(self.memory.peak, self.text, self.picture)

    def lines(self) -> Iterator[str]:
        settings, memory = self.job.settings, self.memory
        sizes = ", ".join(f"{count} at {width} x {height}" for (width, height), count in self.sizes.items())
        epochs = settings.steps / self.epoch_steps
        trained = TRAINED[self.job.kind]
        yield f"train {trained} of {self.network}: {memory.trained / 1e6:.2f} million numbers"
        yield f"pictures: {self.pictures} with {self.captions} captions ({sizes}); {self.skipped} skipped"
        yield (
            f"steps: {settings.steps} of {settings.batch} pictures, {settings.at_once} at once, which is "
            f"{epochs:.1f} times all pictures; {settings.optimizer} at {settings.rate:g}"
        )
        pictures, side = self.job.pictures, self.job.pixels
        if pictures.prompts:
            every = f"every {settings.sample_every} steps and " if settings.sample_every else ""
            yield f"samples: {len(pictures.prompts)} of {side} x {side}, {every}at the end"
        if pictures.prior is not None:
            yield f"pictures of the class: {pictures.prior_count} in {pictures.prior}; the missing ones are drawn first"
        yield "memory, counted, without some 0.5 GB for CUDA itself:"
        yield f"  captions are encoded   {self.text / GB:6.2f} GB"
        yield f"  pictures are encoded   {self.picture / GB:6.2f} GB"
        yield f"  steps                  {memory.peak / GB:6.2f} GB, of it weights {memory.weights / GB:.2f}"
        yield f"  at most                {self.peak / GB:6.2f} GB"
        yield f"writes {self.job.target}; checkpoint, log, samples and cache go to {self.job.folder}"

    def as_dict(self) -> dict[str, Any]:
        return {
            "kind": self.job.kind,
            "network": self.network,
            "trained": self.memory.trained,
            "pictures": self.pictures,
            "skipped": self.skipped,
            "steps": self.job.settings.steps,
            "epoch_steps": self.epoch_steps,
            "samples": len(self.job.pictures.prompts),
            "sample_every": self.job.settings.sample_every,
            "prior_pictures": 0 if self.job.pictures.prior is None else self.job.pictures.prior_count,
            "file": str(self.job.target),
            "folder": str(self.job.folder),
            "sizes": {f"{width}x{height}": count for (width, height), count in self.sizes.items()},
            "bytes": {
                "captions": self.text,
                "pictures": self.picture,
                "steps": self.memory.peak,
                "weights": self.memory.weights,
                "peak": self.peak,
            },
        }


def planned(job: Job) -> Plan:
    """Read the data set and the headers of the files, and count a step. Raises SanaError."""
    pictures, settings, files = job.pictures, job.settings, job.files
    if not isinstance(files, TrainingFiles):
        raise TypeError(f"a plan is made of files, got {type(files).__name__}")
    data = read_data(pictures.path, conditions=pictures.conditions, caption=pictures.caption)
    draws = Draws(data, batch=settings.batch, seed=settings.seed, native=job.pixels, square=not settings.buckets)
    sizes = {size: len(rows) for size, rows in draws.buckets.items()}
    largest = max(sizes, key=lambda size: size[0] * size[1])
    return Plan(
        job=job,
        network=network_name(files.transformer(device="meta").config),
        pictures=len(data.examples),
        skipped=len(data.skipped),
        captions=sum(len(example.captions) for example in data.examples),
        sizes=sizes,
        epoch_steps=draws.epoch_steps,
        memory=count_step(job, *largest),
        text=_text_bytes(files),
        picture=_picture_bytes(files, *largest),
    )


def check_job(job: Job, processes: Processes) -> None:
    """Raise SanaError for what would end the job when all pictures are encoded: a base or a LoRA that do not fit, an
    optimizer that the device has not, a batch that the processes cannot share.
    """
    settings = job.settings
    processes.own(range(settings.batch // settings.at_once))
    build_optimizer(settings.optimizer, [torch.zeros(1, device=processes.device)], rate=settings.rate)
    base = job.files.transformer(job.base_dtype, "meta")
    with FakeTensorMode(allow_non_fake_inputs=True):
        _trainee(job, base)


def _trainee(job: Job, base: SanaTransformer) -> Trainee:
    """What the job trains, without values."""
    without_values(base)
    return job.make(base)


class _EightBits(torch.optim.Optimizer):
    """Stands for AdamW8bit, which takes no tensors without values: two moments, a byte a number each."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__(parameters, {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for parameter in (parameter for group in self.param_groups for parameter in group["params"]):
            if parameter not in self.state:
                shape = (2, *parameter.shape)
                self.state[parameter]["moments"] = torch.zeros(shape, dtype=torch.uint8, device=parameter.device)


def _optimizer(settings: TrainSettings, trained: list[nn.Parameter]) -> torch.optim.Optimizer:
    if settings.optimizer == "adamw8bit":
        return _EightBits(trained)
    return build_optimizer(settings.optimizer, trained, rate=settings.rate)


def count_step(job: Job, width: int, height: int) -> StepMemory:
    """A step of the job's trainee at a size, with its gradient checkpointing and its optimizer."""
    settings = job.settings
    base = job.files.transformer(job.base_dtype, "meta")

    def build() -> FlowObjective:
        trainee = _trainee(job, base)
        if settings.checkpointing:
            checkpoint_blocks(trainee.blocks)
        return trainee.objective

    return step_memory(
        build,
        lambda trained: _optimizer(settings, trained),
        width=width,
        height=height,
        at_once=settings.at_once,
        pieces=settings.batch // settings.at_once,
        states_dtype=torch.bfloat16,
        average=settings.average > 0,
        control=job.pictures.control,
    )


def _text_bytes(files: TrainingFiles) -> int:
    """Of the text encoder's weights; a batch of captions adds little."""
    encoder = load_text_encoder(
        files.files.text_encoder, tokenizer=files.files.tokenizer, device="meta", dtype=files.dtype
    )
    return weight_bytes(encoder)


def _picture_bytes(files: TrainingFiles, width: int, height: int) -> int:
    network = files.autoencoder("meta")
    like = torch.empty(1, 3, height, width, dtype=files.dtype, device=files.device)
    tile = auto_tile(network.config, height, width, like, encode=True)
    peak = encode_peak_bytes(network.config, height, width, tile, files.dtype)
    return peak + weight_bytes(network)
