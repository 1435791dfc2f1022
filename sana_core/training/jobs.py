"""A training from files and a folder of pictures to a file: what the command and the library call."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch

from ..checkpoint.new_file import check_target
from ..config import SamplingDefaults
from ..dcae.autoencoder import DCAE
from ..errors import InputError
from ..pipeline.pipeline import SanaPipeline
from ..text.gemma import GemmaTextEncoder
from ..transformer.model import SanaTransformer
from .claim import claimed
from .data.draws import Draws
from .data.example import DataSet
from .data.read import check_places, read_data
from .data.texts import all_texts
from .data.views import ConditionView, Lines
from .loop import Training
from .material import Caches, Material, Progress, fill_pictures, fill_texts, open_caches
from .processes import Processes
from .run import train
from .samples import Samples, SampleSheets
from .settings import TrainSettings
from .sources import TrainingNetworks, give_back
from .trainees import Trainee

log = logging.getLogger("sana")
TARGET = "target.txt"  # in the folder: which file this training writes
MOST_SAMPLES = 64  # more would be too small to be seen on a sheet
PICTURES = (".png", ".jpg", ".jpeg", ".webp")
MakeTrainee = Callable[[SanaTransformer], Trainee]


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """What a training learns from.

    path: a folder, or a tar of WebDataset. caption: of pictures without one. conditions: a folder of the pictures that
    a ControlNet follows; control: is one trained; lines: how condition pictures become lines, see `ConditionView`.
    prior: a folder of pictures of the class, which stay as they are (prior preservation, arXiv:2208.12242, sec. 3.2);
    prior_prompts: their captions; they are
    drawn by the model, in turn, where there are fewer than prior_count. prompts: of the
    sample sheets.
    """

    path: Path
    caption: str | None = None
    control: bool = False
    conditions: Path | None = None
    lines: Lines | None = None
    prior: Path | None = None
    prior_prompts: Sequence[str] = ()
    prior_count: int = 100
    prior_weight: float = 1.0
    prompts: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.prior is not None and not self.prior_prompts:
            raise InputError('prior preservation needs a prompt of the class, such as "a dog": give --prior-prompt')
        if not all(prompt.strip() for prompt in self.prior_prompts):
            raise InputError("a prompt of the class has no words: give --prior-prompt some")
        if len(self.prompts) > MOST_SAMPLES:
            raise InputError(f"{len(self.prompts)} prompts of --sample: a sheet shows at most {MOST_SAMPLES}")
        if self.prior_count < 1:
            raise InputError(f"--prior-count is {self.prior_count}, expected at least 1")
        if not 0 <= self.prior_weight < math.inf:
            raise InputError(f"--prior-weight is {self.prior_weight}, expected at least 0")


@dataclass(kw_only=True)
class Job:
    """make: what is trained, from the base. kind: "lora" ...; options: of it, which make two trainings the same one.
    folder: checkpoint, log, samples. base_dtype: of the base's weights; None: as networks compute here. cache: folder
    of what is encoded; None: in `folder`.
    """

    files: TrainingNetworks
    sampling: SamplingDefaults
    pictures: Pictures
    settings: TrainSettings
    target: Path
    folder: Path
    kind: str
    make: MakeTrainee
    options: Mapping[str, str | int | float]
    base_dtype: torch.dtype | None = None
    overwrite: bool = False
    cache: Path | None = None

    def __post_init__(self) -> None:
        self.overwrite = self.overwrite or self._wrote_target()
        check_target(self.target, self.overwrite)
        check_places(self.pictures.path, self.pictures.conditions)
        if self.target.suffix.lower() != ".safetensors":
            raise InputError(f"{self.target}: what is trained is a .safetensors file: name it so")
        if not os.access(self.target.parent, os.W_OK):
            raise InputError(f"{self.target.parent} cannot be written to: name a file in another folder")

    @property
    def pixels(self) -> int:
        return self.settings.pixels or max(self.sampling.width, self.sampling.height)

    def _wrote_target(self) -> bool:
        """Is the file that is there from this training?"""
        try:
            return (self.folder / TARGET).read_text(encoding="utf-8") == self._target_from_folder()
        except (OSError, UnicodeDecodeError):
            return False

    def _target_from_folder(self) -> str:
        """The same when both are moved together."""
        try:
            return os.path.relpath(self.target, self.folder)
        except ValueError:  # on another drive of Windows
            return str(self.target.absolute())

    def run(
        self,
        processes: Processes,
        *,
        progress: Progress = lambda what, done, total: None,
        stop: Callable[[int], bool] = lambda step: False,
        watch: Callable[[Training, SampleSheets | None], None] = lambda training, sheets: None,
    ) -> bool:
        """Train. Returns whether all steps are done; else the same job goes on. Raises SanaError."""
        with claimed(self.folder) if processes.is_main else nullcontext():
            return self._run(processes, progress, stop, watch)

    def _run(
        self,
        processes: Processes,
        progress: Progress,
        stop: Callable[[int], bool],
        watch: Callable[[Training, SampleSheets | None], None],
    ) -> bool:
        pictures = self.pictures
        data = read_data(
            pictures.path, conditions=pictures.conditions, caption=pictures.caption,
            progress=lambda done, total: progress("files", done, total),
        )  # fmt: skip
        encoders = self.files.encoders()
        caches = open_caches(
            self.cache or self.folder / "cache",
            encoders,
            conditions=ConditionView(pictures.lines) if pictures.control else None,
        )
        texts = [*all_texts(data.examples), *pictures.prompts, *pictures.prior_prompts]
        fill_texts(caches, texts, encoders, processes, progress)
        give_back(processes.device)
        prior = self._prior(caches, processes, progress)
        if prior:  # pictures that were there may have captions of their own
            fill_texts(caches, all_texts(prior.examples), encoders, processes, progress)
        draws = self._draws(data, prior)
        failed = fill_pictures(caches, draws, encoders, processes, progress)
        if failed:
            draws = self._draws(data.without(failed), prior and prior.without(failed))
        give_back(processes.device)
        if processes.is_main:
            (self.folder / TARGET).write_text(self._target_from_folder(), encoding="utf-8")
        transformer = self.files.transformer(self.base_dtype, processes.device)
        trainee = self.make(transformer)
        settings = self.settings
        shift = self.sampling.shift if settings.shift is None else settings.shift
        return train(
            trainee,
            Material(draws, caches, settings, shift=shift, prior_weight=pictures.prior_weight),
            settings,
            self.folder,
            self.target,
            processes=processes,
            recipe={**self.options, "kind": self.kind, "base": self.files.base(), "data": _digest(draws)},
            notes=self._notes(data),
            draw=self._samples(transformer, trainee, caches, processes),
            stop=stop,
            watch=watch,
            overwrite=self.overwrite,
        )

    def _draws(self, data: DataSet, prior: DataSet | None) -> Draws:
        settings = self.settings
        return Draws(
            data,
            batch=settings.batch,
            seed=settings.seed,
            native=self.pixels,
            square=not settings.buckets,
            caption_dropout=settings.caption_dropout,
            temperature=settings.caption_temperature,
            prior=prior,
        )

    def _prior(self, caches: Caches, processes: Processes, progress: Progress) -> DataSet | None:
        """The pictures of the class; what is missing of them is drawn by the model as it is."""
        pictures, folder, prompts = self.pictures, self.pictures.prior, self.pictures.prior_prompts
        if folder is None:
            return None
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is no folder: name one for the pictures of the class")
        folder.mkdir(parents=True, exist_ok=True)
        if processes.is_main:
            there = sum(1 for path in folder.iterdir() if path.suffix.lower() in PICTURES)
            names = [folder / f"prior_{number:04}.png" for number in range(pictures.prior_count)]
            missing = [path for path in names if not path.exists()][: max(0, pictures.prior_count - there)]
            if missing:
                log.info("%d pictures of the class are drawn first", len(missing))
            made = self._pipeline(self.files.transformer(device=processes.device), processes.device)
            for done, path in enumerate(missing, start=1):
                number = names.index(path)
                prompt = prompts[number % len(prompts)]
                (picture,) = Samples(made, [prompt], caches, self.files.decode, seed=number)()
                path.with_suffix(".txt").write_text(prompt, encoding="utf-8")
                picture.save(path)
                progress("prior pictures", done, len(missing))
            del made
            give_back(processes.device)
        processes.wait()
        return read_data(folder, caption=prompts[0])

    def _samples(
        self, transformer: SanaTransformer, trainee: Trainee, caches: Caches, processes: Processes
    ) -> Samples | None:
        if not self.pictures.prompts or self.pictures.control:
            return None
        return Samples(self._pipeline(transformer, processes.device), self.pictures.prompts, caches, self.files.decode)

    def _pipeline(self, transformer: SanaTransformer, device: torch.device) -> SanaPipeline:
        return SanaPipeline(
            transformer=transformer,
            autoencoder=cast(DCAE, None),  # the networks decode
            text_encoder=cast(GemmaTextEncoder, None),  # texts are encoded already
            defaults=replace(self.sampling, width=self.pixels, height=self.pixels),
            device=device,
            fast="off",
        )

    def _notes(self, data: DataSet) -> dict[str, str]:
        """Metadata under the names that other tools show."""
        words: dict[str, int] = {}
        for example in data.examples:
            for text, _ in example.captions:
                words[text] = words.get(text, 0) + 1
        settings = self.settings
        return {
            "ss_learning_rate": f"{settings.rate:g}",
            "ss_optimizer": settings.optimizer,
            "ss_batch_size_per_device": str(settings.batch),
            "ss_num_train_images": str(len(data.examples)),
            "ss_resolution": str(self.pixels),
            "ss_seed": str(settings.seed),
            "ss_tag_frequency": json.dumps({self.pictures.path.name: dict(list(words.items())[:1000])}),
        }


def _digest(draws: Draws) -> str:
    """Of everything that the steps depend on: pictures and captions."""
    said = [[example.name, example.digest, example.captions] for example in draws.examples]
    return hashlib.blake2b(json.dumps(said).encode(), digest_size=8).hexdigest()
