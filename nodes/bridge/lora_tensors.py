"""The factors of a LoRA as tensors by ComfyUI's own names, so that the host's adapters compute what sana_core does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from ...sana_core.lora.factors import Factors
from ...sana_core.lora.match import Match, parameter_shape

# Tensors with the rows of the weight as their first dimension.
ROW_ROLES = {"up", "hada_w1_a", "hada_w2_a", "diff", "dora_scale", "magnitude"}
BIAS_ROLES = {"diff_b", "up_bias", "bias"}
SUFFIXES = {"up": "lora_up.weight", "down": "lora_down.weight", "mid": "lora_mid.weight", "magnitude": "dora_scale"}
FIRST_FACTORS = ("up", "hada_w1_a", "lokr_w1", "lokr_w1_a")  # the scale can be multiplied into one of these


@dataclass(frozen=True)
class Network:
    """One of the two networks that a LoRA changes, as the host sees it.

    parameters: tensors of the weights' logical shapes, by sana_core's names.  prefix: before the host's LoRA names.
    unpatched: gives a parameter, by sana_core's name, without any LoRA that is added to it at the moment.
    """

    parameters: Mapping[str, Tensor]
    prefix: str
    unpatched: Callable[[str], Tensor]


def host_tensors(match: Match, network: Network) -> dict[str, Tensor] | None:
    """The factors of one match by the host's names; empty if they have rank 0, which the host would divide by.

    Factors of a fused module are cut into the rows of each of its parts. A DoRA on the columns of a fused module cannot
    be cut: the result is then None.
    """
    rows = [parameter_shape(network.parameters, f"{module}.weight")[0] for module in match.modules]
    weight = replace(
        match.factors, tensors={k: tensor for k, tensor in match.factors.tensors.items() if k not in BIAS_ROLES}
    )
    parts = [weight] if len(rows) == 1 else _cut(weight, rows)
    if parts is None:
        return None
    named = _biases(match, network)
    for module, part in zip(match.modules, parts if weight.rank != 0 and weight.tensors else ()):
        named.update(_named(part, network.prefix + module, parameter_shape(network.parameters, f"{module}.weight")))
    return named


def with_scale(factors: Factors) -> Factors:
    """The same factors with their scale multiplied into one of them, float32, and into the bias beside it."""
    role = next((role for role in FIRST_FACTORS if role in factors.tensors), None)
    scaled = {key: factors.tensors[key].float() * factors.scale for key in (role, "up_bias") if key in factors.tensors}
    return Factors(tensors={**factors.tensors, **scaled} if factors.scale != 1 else factors.tensors)


def _biases(match: Match, network: Network) -> dict[str, Tensor]:
    keys = [f"{module}.bias" for module in match.modules if f"{module}.bias" in network.parameters]
    roles = BIAS_ROLES & match.factors.tensors.keys()
    if not roles:
        return {}
    current = torch.empty(0, dtype=torch.float32, device="cpu")
    if "bias" in roles:
        current = torch.cat([network.unpatched(key).to("cpu", torch.float32) for key in keys])
    change = cast(Tensor, match.factors.bias_change(current))
    sizes = [parameter_shape(network.parameters, key).numel() for key in keys]
    return {f"{network.prefix}{key[:-5]}.diff_b": part for key, part in zip(keys, change.split(sizes))}


def _cut(factors: Factors, rows: list[int]) -> list[Factors] | None:
    """Factors for each group of rows of a fused weight, None if they cannot be cut."""
    roles = factors.tensors.keys()
    comes_apart = ({"up", "hada_w1_a"} & roles) and not {"mid", "hada_t1"} & roles
    if {"magnitude", "dora_scale"} & roles and not (comes_apart and factors.per_row(sum(rows))):
        return None
    delta = None if comes_apart or "diff" in roles else factors.delta()
    if delta is not None:
        factors = Factors(tensors={"diff": delta})
    cut = {
        role: tensor.split(rows) if role in ROW_ROLES else [tensor] * len(rows)
        for role, tensor in factors.tensors.items()
    }
    return [replace(factors, tensors={role: parts[i] for role, parts in cut.items()}) for i in range(len(rows))]


def _named(factors: Factors, module: str, shape: torch.Size) -> dict[str, Tensor]:
    if factors.rank is None:  # the host scales by the rank that it sees, which whole factors of a LoKr do not show
        factors = with_scale(factors)
    named = {
        f"{module}.{SUFFIXES.get(role, role)}": _shaped(role, tensor, shape) for role, tensor in factors.tensors.items()
    }
    if factors.alpha is None or factors.rank is None:
        return named
    alpha = torch.tensor(factors.scale * factors.rank, dtype=torch.float32, device="cpu")
    return {**named, f"{module}.alpha": alpha}


def _shaped(role: str, tensor: Tensor, shape: torch.Size) -> Tensor:
    """As the host's adapters take it: differences in the weight's shape, row lengths one below the other, and matrices
    for LoHa, LoKr and the Linear layers that are 1x1 convolutions in files.
    """
    if role == "diff":
        return tensor.reshape(shape)
    if role == "magnitude":
        return tensor.reshape(-1, 1)
    as_matrix = len(shape) == 2 or role.startswith(("hada_w", "lokr_w1_", "lokr_w2_"))
    return tensor.flatten(1) if as_matrix and tensor.ndim > 2 else tensor
