"""What a training is made of, saved so that a kill at any moment costs no more than the steps since."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ..errors import CheckpointError, InputError
from ..shortage import out_of_memory
from ..whole_files import remove_partial, whole_file
from .average import Average
from .processes import like, whole

Recipe = Mapping[str, str | int | float]
"""What makes two trainings the same one: names and numbers, stored beside the weights."""
DIGESTS = {"data": "pictures or captions have changed", "base": "the model it begins from has changed"}


@dataclass(kw_only=True)
class TrainingState:
    """Everything that changes from step to step. All randomness comes from the step, so that no generator has to be
    kept. What is sharded is saved whole, so that another number of processes can go on.

    model: what is trained, and nothing else.
    """

    model: nn.Module
    optimizers: list[torch.optim.Optimizer]
    average: Average | None = None
    step: int = 0
    seconds: float = 0.0  # spent so far, over all runs

    def content(self, recipe: Recipe) -> dict[str, Any]:
        """What a file of it holds, on the CPU. All processes have to call it."""
        return {
            "recipe": json.dumps(dict(recipe), sort_keys=True),
            "model": tree_map_only(Tensor, whole, dict(self.model.state_dict())),
            "optimizers": [tree_map_only(Tensor, whole, optimizer.state_dict()) for optimizer in self.optimizers],
            "average": tree_map_only(Tensor, whole, self.average.tensors) if self.average else {},
            "step": self.step,
            "seconds": self.seconds,
        }

    def restore(self, path: Path, recipe: Recipe) -> None:
        """Continue the training saved at `path`. Raises CheckpointError if it is unreadable or of another training."""
        content = read_state(path)
        try:
            _check_recipe(path, json.loads(content["recipe"]), recipe)
            self._fill(content)
        except CheckpointError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise _damaged(path) from error

    def _fill(self, content: Mapping[str, Any]) -> None:
        self.step, self.seconds = int(content["step"]), float(content["seconds"])
        fill(self.model.state_dict(), content["model"])
        for optimizer, state in zip(self.optimizers, content["optimizers"], strict=True):
            restore_optimizer(optimizer, state)
        if self.average:
            fill(self.average.tensors, content["average"])


def write_state(content: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint: a whole one is there whenever it is killed. Raises InputError where it cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_partial(path.parent, path.name)
    try:
        with whole_file(path, path.name) as partial, partial.open("wb") as file:
            torch.save(content, file)
    except (OSError, RuntimeError) as error:  # PyTorch tells of a full disk with either
        if out_of_memory(error):
            raise
        said = getattr(error, "strerror", None) or "is the disk full?"
        raise InputError(f"{path} cannot be written ({said}): free space, and the same call goes on") from error


@torch.no_grad()
def fill(tensors: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    """Copy whole tensors into those of the same names, which may be sharded."""
    for name, tensor in tensors.items():
        if saved[name].shape != tensor.shape:
            raise ValueError(f"{name} is {tuple(saved[name].shape)}, not {tuple(tensor.shape)}")
        tensor.copy_(like(saved[name], tensor))


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """What `optimizer.state_dict()` gave, of whole tensors, for parameters that may be sharded."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def placed(index: int, tensor: Any) -> Any:
        same = isinstance(tensor, Tensor) and tensor.shape == parameters[index].shape
        return like(tensor, parameters[index]) if same else tensor

    kept = state["state"].items()
    per_parameter = {index: {name: placed(index, value) for name, value in values.items()} for index, values in kept}
    optimizer.load_state_dict({**state, "state": per_parameter})


def read_state(path: Path) -> dict:
    """A saved training, on the CPU; nothing in it is executed. Raises CheckpointError."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing: run the stage that writes it first") from error
    except (RuntimeError, EOFError, BadZipFile, pickle.UnpicklingError, OSError) as error:
        if out_of_memory(error):
            raise
        raise _damaged(path) from error


def _check_recipe(path: Path, saved: Mapping[str, Any], recipe: Recipe) -> None:
    if differing := [name for name in sorted({*saved, *recipe}) if saved.get(name) != recipe.get(name)]:
        named = [name for name in differing if name in saved and name in recipe] or differing
        said = ", ".join(
            DIGESTS.get(name) or f"{name} {saved.get(name)} instead of {recipe.get(name)}" for name in named
        )
        raise CheckpointError(
            f"{path} is another training ({said}): use its settings; to begin anew delete its folder, or name another"
        )


def _damaged(path: Path) -> CheckpointError:
    return CheckpointError(f"{path} is not a saved training, or it is damaged: delete it to begin anew")
