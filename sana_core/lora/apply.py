"""Add a LoRA to the weights of a network."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, InputError
from .file import Lora
from .keys import without_wrappers
from .match import match_lora, nothing_matches
from .report import LoraReport, log_unmatched


@torch.no_grad()
def apply_lora(network: nn.Module, lora: Lora, strength: float = 1.0) -> LoraReport:
    """Add `strength` times a LoRA to the weights of a SANA transformer or text encoder, compiled ones too.

    Calls add up. The opposite strength removes a LoRA to rounding; not a DoRA, whose change depends on the weight that
    it is added to, nor biases that a file replaces.

    Everything is checked before the first weight changes. Keys that fit nothing are logged and reported. Raises
    CheckpointError if nothing fits or a shape differs, and InputError for a strength that is no number or for quantised
    weights.
    """
    if not (isinstance(strength, (int, float)) and math.isfinite(strength)):
        raise InputError(f"a LoRA at strength {strength!r}: expected a number such as 1")
    parameters = {without_wrappers(key): tensor for key, tensor in network.state_dict().items()}
    _check_number_types(lora, parameters)
    matches, report = match_lora(lora, parameters, strength)
    if not matches:
        raise CheckpointError(nothing_matches(lora, parameters))
    log_unmatched(report)
    for match in matches if strength else ():
        weights = [parameters[f"{name}.weight"] for name in match.modules]
        factors = match.factors.to(weights[0].device)
        _add(factors.change(_joined(weights)), weights, strength)
        biases = [parameters[f"{name}.bias"] for name in match.modules if f"{name}.bias" in parameters]
        if biases:
            _add(factors.bias_change(_joined(biases)), biases, strength)
    return report


def _check_number_types(lora: Lora, parameters: Mapping[str, Tensor]) -> None:
    for key, weight in parameters.items():
        if key.endswith(".weight") and (not weight.is_floating_point() or weight.element_size() < 2):
            raise InputError(
                f"{lora.source}: this model has quantised weights ({key} is {weight.dtype}), to which a LoRA cannot be "
                "added: load it in bfloat16, float16 or float32. Nothing was changed"
            )


def _joined(parameters: list[Tensor]) -> Tensor:
    """The parameters as rows of one, float32."""
    return torch.cat([parameter.float() for parameter in parameters])


def _add(change: Tensor | None, parameters: list[Tensor], strength: float) -> None:
    """Add the rows of `change` (float32) to parameters that share them, summed in float32."""
    if change is None:
        return
    for parameter, part in zip(parameters, change.split([len(parameter) for parameter in parameters])):
        parameter.copy_(parameter.float() + strength * part)
