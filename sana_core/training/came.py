"""CAME (arXiv:2307.02047): Adam whose second moments are kept as a row and a column, and whose steps shrink where the
gradients are unsteady. For whole parameters, and for those that FSDP2 shards by their first dimension.

The package came-pytorch gives the same numbers, but knows no sharded parameters, and its state loses digits when it is
loaded beside 16-bit weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError

BETAS = (0.9, 0.999, 0.9999)
EPS = (1e-30, 1e-16)


@dataclass(frozen=True)
class Share:
    """What this process holds of a parameter: all of it, or some of its rows (indices of the first dimension).

    groups: the process groups over which the rows are divided.
    """

    parameter: Tensor
    groups: tuple[Any, ...] = ()

    @classmethod
    def of(cls, parameter: Tensor) -> Share:
        """Raises InputError for a parameter that is divided by another dimension."""
        if not hasattr(parameter, "to_local"):
            return cls(parameter)
        mesh, placements = parameter.device_mesh, parameter.placements  # type: ignore[attr-defined]
        if any(not place.is_replicate() and not place.is_shard(0) for place in placements):
            raise InputError("CAME takes parameters that are sharded by their first dimension alone")
        return cls(parameter, tuple(mesh.get_group(axis) for axis, p in enumerate(placements) if p.is_shard()))

    def total(self, part: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        for group in self.groups:
            torch.distributed.all_reduce(part, group=group)
        return part

    def rms(self, part: Tensor) -> Tensor:
        return (self.total(part.square().sum()) / self.parameter.numel()).sqrt()

    def kept(self, part: Tensor, *, rows: bool = True) -> Tensor:
        """`part` as a tensor of the state. rows: it has the parameter's first dimension, and is sharded like it."""
        if not rows or not hasattr(self.parameter, "to_local"):
            return part
        from torch.distributed.tensor import DTensor

        shape = torch.Size((self.parameter.shape[0], *part.shape[1:]))
        whole = torch.empty(shape, device="meta")
        mesh, placements = self.parameter.device_mesh, self.parameter.placements  # type: ignore[attr-defined]
        return DTensor.from_local(part, mesh, placements, run_check=False, shape=shape, stride=whole.stride())

    def placed(self, tensor: Tensor, *, rows: bool = True) -> Tensor:
        """A tensor of a saved state, whole or sharded already, where this state needs it."""
        tensor = tensor.to(self.parameter.device)
        if not rows or not hasattr(self.parameter, "to_local") or hasattr(tensor, "to_local"):
            return tensor.clone()
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(tensor, self.parameter.device_mesh, self.parameter.placements)  # type: ignore[attr-defined]


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor, in the same memory."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor  # type: ignore[operator]


class Came(torch.optim.Optimizer):
    """betas: of the first moment, the second moment and the unsteadiness. eps: added to squared gradients and to the
    unsteadiness. clip_threshold: the largest root mean square of an update before momentum.

    The state is in float32, whatever the parameters are in. Tensors of it that are sharded are DTensors, so that it can
    be saved whole and loaded by another number of processes.
    """

    def __init__(
        self,
        parameters: Iterable[Any],
        *,
        lr: float,
        betas: tuple[float, float, float] = BETAS,
        eps: tuple[float, float] = EPS,
        clip_threshold: float = 1.0,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "betas": tuple(betas), "eps": tuple(eps), "clip_threshold": clip_threshold}
        super().__init__(parameters, {**defaults, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: nn.Parameter, group: Mapping[str, Any]) -> None:
        share, state = Share.of(parameter), self.state[parameter]
        weight, gradient = local(parameter), local(parameter.grad).float()  # type: ignore[arg-type]
        if not state:
            self._begin(share, gradient, state)
        beta, beta_square, beta_unsteady = group["betas"]
        square = gradient.square().add_(group["eps"][0])
        if gradient.ndim < 2:
            mean = local(state["exp_avg_sq"]).mul_(beta_square).add_(square, alpha=1 - beta_square)
            update = mean.rsqrt().mul_(gradient)
        else:
            update = _factored(share, state, "exp_avg_sq", square, beta_square).mul_(gradient)
        update.div_((share.rms(update) / group["clip_threshold"]).clamp_(min=1.0))
        moment = self._moment(state).mul_(beta).add_(update, alpha=1 - beta)
        if gradient.ndim < 2:
            step = moment.clone()
        else:
            unsteady = (update - moment).square_().add_(group["eps"][1])
            step = _factored(share, state, "exp_avg_res", unsteady, beta_unsteady).mul_(moment)
        self._keep_moment(state, moment)
        if group["weight_decay"]:
            weight.add_(weight, alpha=-group["weight_decay"] * group["lr"])
        weight.sub_(step.mul_(group["lr"]))

    def _begin(self, share: Share, gradient: Tensor, state: dict[str, Any]) -> None:
        self._begin_moment(share, gradient, state)
        if gradient.ndim < 2:
            state["exp_avg_sq"] = share.kept(torch.zeros_like(gradient))
            return
        for name in ("exp_avg_sq", "exp_avg_res"):
            for side, shape in (("row", gradient.shape[:-1]), ("col", gradient.shape[:-2] + gradient.shape[-1:])):
                zeros = torch.zeros(shape, dtype=torch.float32, device=gradient.device)
                state[f"{name}_{side}"] = share.kept(zeros, rows=_by_rows(f"{name}_{side}", gradient))

    def _begin_moment(self, share: Share, gradient: Tensor, state: dict[str, Any]) -> None:
        state["exp_avg"] = share.kept(torch.zeros_like(gradient))

    def _moment(self, state: Mapping[str, Any]) -> Tensor:
        """The first moment in float32; it will be changed in place."""
        return local(state["exp_avg"])

    def _keep_moment(self, state: dict[str, Any], moment: Tensor) -> None:
        """Store the first moment that `_moment` gave, as it is now."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As PyTorch's, but every tensor keeps its own number type, and whole tensors are sharded where the parameters
        are.
        """
        super().load_state_dict({**state_dict, "state": {}})
        for saved, group in zip(state_dict["param_groups"], self.param_groups, strict=True):
            for index, parameter in zip(saved["params"], group["params"], strict=True):
                share = Share.of(parameter)
                for name, value in state_dict["state"].get(index, {}).items():
                    tensor = isinstance(value, Tensor)
                    placed = share.placed(value, rows=_by_rows(name, parameter)) if tensor else value
                    self.state[parameter][name] = placed


def _by_rows(name: str, parameter: Tensor) -> bool:
    """Does this tensor of the state have the parameter's first dimension?"""
    return parameter.ndim != 2 or not name.endswith("_col")


def _factored(share: Share, state: Mapping[str, Any], name: str, square: Tensor, beta: float) -> Tensor:
    """Add `square` to the running means over rows and columns. Returns one by the root of what they stand for."""
    row, column = local(state[f"{name}_row"]), local(state[f"{name}_col"])
    row.mul_(beta).add_(square.mean(dim=-1), alpha=1 - beta)
    if square.ndim == 2 and share.groups:  # the rows of a column are on several processes
        sums = share.total(torch.cat([square.sum(dim=0), row.sum().view(1)])) / share.parameter.shape[0]
        means, mean = sums[:-1], sums[-1:]
    else:
        means, mean = square.mean(dim=-2), row.mean(dim=-1, keepdim=True)
    column.mul_(beta).add_(means, alpha=1 - beta)
    return (row / mean).rsqrt_().unsqueeze(-1) * column.rsqrt().unsqueeze(-2)
