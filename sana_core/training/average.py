"""Exponential moving average of a network's parameters: the weights that are sampled and shipped."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Average:
    """`model` is a copy whose parameters follow the trained ones slowly.

    The decay grows from 0 towards `decay`, so that the random beginning does not stay in the average of a short
    training.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = deepcopy(model).requires_grad_(False).eval()
        self.decay = decay
        self._slow: list[Tensor] = list(self.model.parameters())
        self._fast: list[Tensor] = list(model.parameters())

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Follow the trained parameters after `step` steps."""
        follow = get_ema_multi_avg_fn(min(self.decay, step / (step + 50)))  # of all parameters at once
        follow(self._slow, self._fast, step)
