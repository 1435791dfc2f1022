"""Muon for matrices and convolutions, AdamW for everything else."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # quintic coefficients of the Muon reference, github.com/KellerJordan/Muon
SMALLEST_MATRIX = 32  # what is narrower than this is not worth orthogonalising


def orthogonalize(matrices: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrices, roughly: most singular values end between 0.7 and 1.2. bfloat16 inside, for
    speed.

    matrices: (..., rows, columns), all at once: many small products one by one would leave a GPU idle.
    """
    a, b, c = NEWTON_SCHULZ
    x = (matrices / (matrices.norm(dim=(-2, -1), keepdim=True) + 1e-7)).bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT.contiguous() if tall else x
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised (K. Jordan et al., 2024). Convolutions are taken as (out, in * kernel)
    matrices.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], *, lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            same_shape: dict[tuple[int, ...], list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    same_shape[tuple(parameter.shape)].append(parameter)
            for parameters in same_shape.values():
                self._update(parameters, group)

    def _update(self, parameters: list[nn.Parameter], group: dict) -> None:
        gradients = [parameter.grad.flatten(1) for parameter in parameters if parameter.grad is not None]
        for parameter, gradient in zip(parameters, gradients):
            buffer = self.state[parameter].setdefault("momentum", torch.zeros_like(gradient))
            buffer.lerp_(gradient, 1 - group["momentum"])
        looked_ahead = [g.lerp(self.state[p]["momentum"], group["momentum"]) for p, g in zip(parameters, gradients)]
        directions = orthogonalize(torch.stack(looked_ahead))
        rate = group["lr"] * math.sqrt(max(1.0, directions.shape[-2] / directions.shape[-1]))
        for parameter, direction in zip(parameters, directions):
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.sub_(direction.reshape(parameter.shape), alpha=rate)


def build_optimizers(
    model: nn.Module, *, rate: float, plain_rate: float, weight_decay: float = 0.0, plain: tuple[str, ...] = ()
) -> list[torch.optim.Optimizer]:
    """Muon at the peak rate `rate` and AdamW at `plain_rate` for all parameters of `model` that take gradients.

    AdamW gets vectors, depthwise kernels, narrow matrices and every parameter whose name contains a word of `plain`
    (embeddings, the layers at the two ends). weight_decay: Muon's.
    """
    matrices, rest = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_matrix = parameter.ndim >= 2 and min(parameter.shape[0], parameter[0].numel()) >= SMALLEST_MATRIX
            (matrices if is_matrix and not any(word in name for word in plain) else rest).append(parameter)
    muon = [Muon(matrices, lr=rate, weight_decay=weight_decay)] if matrices else []
    return [*muon, torch.optim.AdamW(rest, lr=plain_rate, betas=(0.9, 0.98), weight_decay=0.0)]
