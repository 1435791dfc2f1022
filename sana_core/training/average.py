"""Exponential moving average of a network's parameters: the weights that are sampled and shipped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Average:
    """`tensors` follow the parameters of `model` slowly, by the same names. Sharded parameters have sharded averages.

    The decay grows from 0 towards `decay`, so that the random beginning does not stay in the average of a short
    training.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        self._names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Follow the trained parameters after `step` steps."""
        follow = get_ema_multi_avg_fn(min(self.decay, step / (step + 50)))  # of all parameters at once
        trained = self.model.state_dict()
        slow, fast = ([tensors[name] for name in self._names] for tensors in (self.tensors, trained))
        follow(slow, fast, step)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the model computes with the average."""
        trained = self.model.state_dict()
        kept = {name: trained[name].clone() for name in self._names}
        self._fill(trained, self.tensors)
        try:
            yield
        finally:
            self._fill(trained, kept)

    @torch.no_grad()
    def _fill(self, into: dict[str, Tensor], tensors: dict[str, Tensor]) -> None:
        for name in self._names:
            into[name].copy_(tensors[name])
