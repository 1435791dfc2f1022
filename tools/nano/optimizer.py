"""Muon for matrices and convolutions, AdamW for everything else, and the learning-rate schedule of all stages."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # quintic coefficients of the Muon reference, github.com/KellerJordan/Muon


def orthogonalize(matrix: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrix, roughly: most singular values end between 0.7 and 1.2. bfloat16 inside, for speed.

    matrix: (rows, columns).
    """
    a, b, c = NEWTON_SCHULZ
    x = (matrix / (matrix.norm() + 1e-7)).bfloat16()
    tall = x.shape[0] > x.shape[1]
    x = x.T.contiguous() if tall else x
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if tall else x).to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised (K. Jordan et al., 2024). Convolutions are taken as (out, in * kernel) matrices."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.0) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.update(parameter, group)

    def update(self, parameter: nn.Parameter, group: dict) -> None:
        state = self.state[parameter]
        gradient = parameter.grad.reshape(parameter.shape[0], -1)
        buffer = state.setdefault("momentum", torch.zeros_like(gradient))
        buffer.lerp_(gradient, 1 - group["momentum"])
        direction = orthogonalize(gradient.lerp(buffer, group["momentum"]))
        scale = math.sqrt(max(1.0, direction.shape[0] / direction.shape[1]))
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.sub_(direction.reshape(parameter.shape), alpha=group["lr"] * scale)


def split(named: Iterable[tuple[str, nn.Parameter]], plain: tuple[str, ...] = ()) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """(for Muon, for AdamW). Depthwise kernels, vectors and the parameters whose name contains a word of `plain` go to AdamW."""
    matrices, rest = [], []
    for name, parameter in named:
        is_matrix = parameter.ndim >= 2 and min(parameter.shape[0], parameter[0].numel()) >= 32
        (matrices if is_matrix and not any(word in name for word in plain) else rest).append(parameter)
    return matrices, rest


def schedule(progress: float, warmup: float = 0.01, decay: float = 0.5) -> float:
    """Factor of the learning rate at `progress` in 0..1: linear warm-up, a plateau, linear decay over the last part to 2 %."""
    return max(0.02, min(1.0, (progress + 1e-3) / warmup, (1 - progress) / decay))


def set_rate(optimizers: list[torch.optim.Optimizer], factor: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("peak", group["lr"]) * factor
