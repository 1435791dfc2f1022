"""LoRAs trained inside ComfyUI: their names and folders, and a stop that loses nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import comfy.model_management
import folder_paths
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...sana_core.errors import InputError
from ...sana_core.presets import network_name
from ...sana_core.sources import NANO
from ...sana_core.training.jobs import Job, Pictures
from ...sana_core.training.lora_file import load_trained
from ...sana_core.training.lora_layers import TARGETS
from ...sana_core.training.planned import count_step
from ...sana_core.training.processes import Processes
from ...sana_core.training.run import CHECKPOINT
from ...sana_core.training.settings import TrainSettings
from ...sana_core.training.trainees import LoraTrainee
from .new_files import own_folder, plain_name
from .training_networks import HostNetworks
from .training_progress import Shown

FOLDER = "sana_training"  # in ComfyUI's output folder
EXAMPLES = NANO / "pictures"
EXAMPLE = " (example)"  # follows the name of a folder that comes with the pack
LOGGED = 100  # points of the loss in a whole training, at least


@dataclass(frozen=True, kw_only=True)
class LoraRequest:
    """The widgets of the node."""

    folder: str
    caption: str
    name: str
    steps: int
    batch: int
    at_once: int
    rank: int
    learning_rate: float
    optimizer: str
    targets: str
    seed: int
    alpha: float = 0.0
    dora: bool = False
    caption_dropout: float = 0.1
    pixels: int = 0
    checkpointing: bool = True
    sample_prompt: str = ""
    sample_every: int = 100
    continue_training: bool = False

    def settings(self) -> TrainSettings:
        return TrainSettings(
            steps=self.steps,
            batch=self.batch,
            at_once=self.at_once,
            pixels=self.pixels or None,
            optimizer=self.optimizer,
            rate=self.learning_rate,
            caption_dropout=self.caption_dropout,
            checkpointing=self.checkpointing,
            seed=self.seed,
            log_every=max(1, self.steps // LOGGED),
            sample_every=self.sample_every,
        )


@dataclass(frozen=True, kw_only=True)
class TrainedFile:
    """lora: its tensors. name: as loaders list it. sheet: the last samples, (1, H, W, 3) in 0..1. plot: of the loss."""

    lora: dict[str, Tensor]
    name: str
    sheet: Tensor | None
    plot: Tensor


def picture_folders() -> list[str]:
    """What the node offers: the folders in ComfyUI's input folder, and the examples of the pack."""
    own = sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir()) if EXAMPLES.is_dir() else []
    return [*folder_paths.get_input_subfolders(), *(f"{name}{EXAMPLE}" for name in own)]


def train_lora(networks: HostNetworks, request: LoraRequest) -> TrainedFile:
    """Train and write the file. Raises SanaError, and the host's error of an interrupt once all is saved."""
    job, stem = _job(networks, request)
    shown = Shown(job)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            counted = count_step(job, job.pixels, job.pixels)
            networks.memory = counted.peak - counted.weights
            job.run(Processes(networks.device), progress=shown.prepared, stop=shown.stepped, watch=shown.watch)
    except FloatingPointError as error:
        raise InputError(str(error)) from error
    comfy.model_management.throw_exception_if_processing_interrupted()
    shown.end()
    sheet = None if shown.sheet is None else _image(shown.sheet)
    return TrainedFile(
        lora=load_trained(job.target), name=f"{stem}.safetensors", sheet=sheet, plot=_image(shown.plot())
    )


def _job(networks: HostNetworks, request: LoraRequest) -> tuple[Job, PurePosixPath]:
    """What is trained, and the name of its file without ending."""
    settings, pictures = request.settings(), _pictures(request.folder)
    stem = _stem(request.name, request.continue_training)
    target = own_folder("loras") / f"{stem}.safetensors"
    base, autocast = network_name(networks.config), networks.autocast

    def make(transformer: Any) -> LoraTrainee:
        return LoraTrainee(
            transformer, rank=request.rank, alpha=request.alpha or None, targets=TARGETS[request.targets],
            dora=request.dora, seed=settings.seed, base=base, autocast=autocast, guidance=settings.guidance,
        )  # fmt: skip

    options = {
        "rank": request.rank, "alpha": request.alpha or request.rank, "targets": request.targets,
        "dora": int(request.dora), "prior weight": 0,
    }  # fmt: skip
    job = Job(
        files=networks,
        sampling=networks.sampling,
        pictures=Pictures(path=pictures, caption=request.caption or None, prompts=_lines(request.sample_prompt)),
        settings=settings,
        target=target,
        folder=_trainings() / stem,
        kind="lora",
        make=make,
        options=options,
        cache=_trainings() / "cache",
    )
    return job, stem


def _pictures(name: str) -> Path:
    """The folder of a name in the list. Raises InputError."""
    if name not in picture_folders():
        raise InputError(
            f"there is no folder {name!a:.80} in ComfyUI's input folder: put the pictures there and press R"
        )
    if name.endswith(EXAMPLE):
        return EXAMPLES / name.removesuffix(EXAMPLE)
    return Path(folder_paths.get_input_directory()) / name


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def _trainings() -> Path:
    return Path(folder_paths.get_output_directory()) / FOLDER


def _stem(name: str, continuing: bool) -> PurePosixPath:
    """Name of the file without ending: a new one, with a number where it is taken, or that of the last training."""
    plain = plain_name("loras", name.strip())
    first = plain.with_suffix("") if plain.suffix.lower() == ".safetensors" else plain

    def numbered(number: int) -> PurePosixPath:
        return first if number == 1 else first.with_name(f"{first.name}_{number}")

    last = max((number for number in _numbers(first) if _checkpoint(numbered(number)).is_file()), default=0)
    if continuing:
        if not last:
            raise InputError(f"there is no training {str(first)!a:.80} to go on with: turn continue_training off")
        return numbered(last)
    number = 1
    while _checkpoint(numbered(number)).exists() or folder_paths.get_full_path(
        "loras", f"{numbered(number)}.safetensors"
    ):
        number += 1
    return numbered(number)


def _numbers(first: PurePosixPath) -> list[int]:
    """Of the trainings that are called `first`, or that and a number."""
    folder = (_trainings() / first).parent
    ends = [path.name.removeprefix(f"{first.name}_") for path in folder.glob("*")]
    return [1, *(int(end) for end in ends if end.isascii() and end.isdecimal())]


def _checkpoint(stem: PurePosixPath) -> Path:
    return _trainings() / stem / f"{CHECKPOINT}.pt"


def _image(picture: Image.Image) -> Tensor:
    """IMAGE."""
    return torch.from_numpy(np.asarray(picture.convert("RGB")).copy()).float()[None] / 255.0
