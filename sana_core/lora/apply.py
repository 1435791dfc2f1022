"""Add a LoRA to the weights of a network."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, InputError
from .factors import Factors
from .file import Lora
from .match import match_lora, nothing_matches
from .report import LoraReport, log_unmatched


@torch.no_grad()
def apply_lora(network: nn.Module, lora: Lora, strength: float = 1.0) -> LoraReport:
    """Add `strength` times a LoRA to the weights of a SANA transformer or text encoder. Calls add up; the opposite
    strength takes a LoRA back to rounding (not a DoRA, whose change depends on the weight it meets).

    Everything is checked before the first weight changes. Keys that fit nothing are logged and reported. Raises
    CheckpointError where nothing fits or a shape differs, and InputError for a strength that is no number.
    """
    if not math.isfinite(strength):
        raise InputError(f"a LoRA at strength {strength}: expected a number such as 1")
    parameters = network.state_dict()
    matches, report = match_lora(lora, parameters, strength)
    if not matches:
        raise CheckpointError(nothing_matches(lora, parameters))
    log_unmatched(report)
    for match in matches if strength else ():
        _add(match.factors, [parameters[f"{name}.weight"] for name in match.modules], strength)
        if "diff_b" in match.factors.tensors:
            _add_parts(
                match.factors.tensors["diff_b"], [parameters[f"{name}.bias"] for name in match.modules], strength
            )
    return report


def _add(factors: Factors, weights: list[Tensor], strength: float) -> None:
    """Add to weights that stand for the rows of one."""
    change = factors.to(weights[0].device).change(torch.cat([weight.float() for weight in weights]))
    if change is not None:
        _add_parts(change, weights, strength)


def _add_parts(change: Tensor, parameters: list[Tensor], strength: float) -> None:
    """Add the rows of `change` to parameters that share them, summed in float32."""
    parts = change.to(parameters[0].device, torch.float32).split([len(parameter) for parameter in parameters])
    for parameter, part in zip(parameters, parts):
        parameter.copy_(parameter.float() + strength * part)
