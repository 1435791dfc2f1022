"""A training from its parts to its file."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from .average import Average
from .batches import load_batches
from .gradient_checkpointing import checkpoint_blocks, keep_blocks
from .loop import LoopSettings, Training
from .material import Material
from .objective import FlowBatch
from .optimizers import build_optimizer
from .processes import Processes, shard
from .samples import Samples, SampleSheets
from .settings import TrainSettings
from .state import TrainingState
from .trainees import Trainee

log = logging.getLogger("sana")
CHECKPOINT = "training"


def train(
    trainee: Trainee,
    material: Material,
    settings: TrainSettings,
    folder: Path,
    target: Path,
    *,
    processes: Processes,
    recipe: Mapping[str, str | int | float],
    notes: Mapping[str, str],
    draw: Samples | None = None,
    stop: Callable[[int], bool] = lambda step: False,
    watch: Callable[[Training, SampleSheets | None], None] = lambda training, sheets: None,
    overwrite: bool = False,
) -> bool:
    """Train, or go on where `folder` says, and write `target`. Returns whether all steps are done; else what is there
    by then was written, and the same call goes on.

    recipe: what makes two trainings the same one, besides the settings. notes: metadata of the file. draw: pictures for
    the sheets in `folder`/samples. stop: asked after each step. watch: gets the training before it begins.
    """
    settings_of_loop = LoopSettings(
        steps=settings.steps, warmup=settings.warmup, decay=settings.decay, weights={}, clip=settings.clip,
        minutes=settings.minutes, log_every=settings.log_every, report_every=settings.sample_every,
        save_seconds=settings.save_seconds,
    )  # fmt: skip
    blocks = trainee.blocks if settings.checkpointing else ()
    checkpoint_blocks(blocks)
    try:
        trainee.objective.to(processes.device)
        if settings.shard and processes.count > 1:
            shard(trainee.objective, trainee.blocks)
        objective = processes.prepared(trainee.objective)
        state = TrainingState(
            model=trainee.trained,
            optimizers=[
                build_optimizer(
                    settings.optimizer,
                    [parameter for parameter in trainee.trained.parameters() if parameter.requires_grad],
                    rate=settings.rate,
                    weight_decay=settings.weight_decay,
                )
            ],
            average=Average(trainee.trained, settings.average) if settings.average else None,
        )
        training = Training(
            CHECKPOINT, folder, state, settings_of_loop, {**settings.recipe(), **recipe},
            processes=processes, objective=objective,
        )  # fmt: skip
        if state.step:
            done = "all steps are done already" if state.step >= settings.steps else "the training goes on"
            log.info("%s: it stands at step %d of %d", done, state.step, settings.steps)
        sheets = draw and SampleSheets(draw, folder / "samples", state.average, write=processes.is_main)
        watch(training, sheets)

        def losses(batch: FlowBatch, step: int) -> dict[str, Tensor]:
            return {"loss": objective(batch.to(processes.device))}

        done = training.run(
            load_batches(material, state.step, settings.steps),
            losses,
            sheets,
            split=lambda batch: batch.split(settings.at_once),
            stop=lambda: stop(state.step),
        )
        tensors = trained_tensors(trainee, state.average)
        if processes.is_main:
            trainee.write(target, tensors, {**notes, "ss_steps": str(state.step)}, overwrite=overwrite)
        processes.wait()
        return done
    finally:
        keep_blocks(blocks)


def trained_tensors(trainee: Trainee, average: Average | None) -> dict[str, Tensor]:
    """What the file holds, or its average. All processes have to call it."""
    if average is None:
        return trainee.tensors()
    with torch.no_grad(), average.applied():
        return {key: tensor.clone() for key, tensor in trainee.tensors().items()}
