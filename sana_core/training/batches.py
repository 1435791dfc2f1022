"""Batches as functions of their step: whoever knows the step knows the batch, which is what makes a training resume
exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

Batch = TypeVar("Batch")
STRIDE = 1_000_003  # between the seeds of consecutive steps


def step_seed(seed: int, step: int) -> int:
    return (seed * STRIDE + step) * STRIDE % 2**63


def step_generator(seed: int, step: int, device: str | torch.device = "cpu") -> torch.Generator:
    """The randomness of one step of the training `seed`. A GPU draws other numbers than the CPU, each the same every
    time.
    """
    return torch.Generator(device).manual_seed(step_seed(seed, step))


class StepBatches(Dataset, Generic[Batch]):
    """`make(step)` as a data set, for worker processes that work ahead."""

    def __init__(self, make: Callable[[int], Batch]) -> None:
        self.make = make

    def __getitem__(self, step: int) -> Batch:
        return self.make(step)


def load_batches(make: Callable[[int], Batch], first: int, last: int, *, workers: int = 0) -> Iterator[Batch]:
    """`make(first)` to `make(last - 1)` in order, made by `workers` processes ahead of time, or here where there are
    none.

    make: a pure function of the step, picklable where the platform starts workers afresh.
    """
    if workers == 0:
        return map(make, range(first, last))
    loader = DataLoader(
        StepBatches(make), batch_size=None, sampler=range(first, last), num_workers=workers, prefetch_factor=4
    )
    return iter(loader)
