"""What a training is made of, saved so that a kill at any moment costs no more than the steps since."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import torch
from torch import nn

from ..errors import CheckpointError
from .average import Average

Recipe = Mapping[str, str | int | float]
"""What makes two trainings the same one: names and numbers, stored beside the weights."""


@dataclass(kw_only=True)
class TrainingState:
    """Everything that changes from step to step. All randomness comes from the step, so that no generator has to be
    kept.
    """

    model: nn.Module
    optimizers: list[torch.optim.Optimizer]
    average: Average | None = None
    step: int = 0
    seconds: float = 0.0  # spent so far, over all runs

    def save(self, path: Path, recipe: Recipe) -> None:
        """Write under another name and rename: whenever it is killed, a whole checkpoint is there."""
        content = {
            "recipe": json.dumps(dict(recipe), sort_keys=True),
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "average": self.average.model.state_dict() if self.average else {},
            "step": self.step,
            "seconds": self.seconds,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        with temporary.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)

    def restore(self, path: Path, recipe: Recipe) -> None:
        """Continue the training saved at `path`. Raises CheckpointError if it is unreadable or of another training."""
        content = read_state(path)
        saved = json.loads(content["recipe"])
        if differing := [name for name in sorted({*saved, *recipe}) if saved.get(name) != recipe.get(name)]:
            said = ", ".join(f"{name} {saved.get(name)} instead of {recipe.get(name)}" for name in differing)
            raise CheckpointError(f"{path} is another training ({said}): use its settings, or another folder")
        self.model.load_state_dict(content["model"])
        for optimizer, state in zip(self.optimizers, content["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        if self.average:
            self.average.model.load_state_dict(content["average"])
        self.step, self.seconds = content["step"], content["seconds"]


def read_state(path: Path) -> dict:
    """A saved training, on the CPU; nothing in it is executed. Raises CheckpointError."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing: run the stage that writes it first") from error
    except (RuntimeError, EOFError, BadZipFile, pickle.UnpicklingError, OSError) as error:
        raise CheckpointError(f"{path} is not a saved training ({error}): delete it and run its stage again") from error
