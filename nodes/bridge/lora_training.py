"""The host's node Train LoRA, when it goes on with an existing LoRA of a SANA model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...sana_core.lora.match import match_lora
from .lora import read_tensors, transformer_network
from .lora_tensors import host_tensors, with_scale
from .model import SanaModel


def continued(
    setup: Callable[..., tuple], patcher: Any, existing: Mapping[str, Tensor], *args: Any, **kwargs: Any
) -> tuple:
    """What the host's `setup(patcher, existing, ...)` returns; its trained parameters start from the file's effect.

    The host looks for its own names alone, finds alpha nowhere, and starts biases and norms from 0.
    """
    if not existing or not isinstance(patcher.model, SanaModel):
        return setup(patcher, existing, *args, **kwargs)
    tensors = training_tensors(existing, patcher.model)
    parameters, *rest = setup(patcher, tensors, *args, **kwargs)
    for key, tensor in tensors.items():
        if key.endswith((".diff", ".diff_b")) and key in parameters:
            parameters[key].data.copy_(tensor.reshape(parameters[key].shape))
    return parameters, *rest


def training_tensors(existing: Mapping[str, Tensor], model: SanaModel) -> dict[str, Tensor]:
    """A LoRA by the names under which the training looks for it, its scale multiplied into the factors.

    alpha is the rank then, under the weight's key, where the host looks for it; its own default is 1.
    """
    network = transformer_network(model)
    tensors: dict[str, Tensor] = {}
    for match in match_lora(read_tensors(existing), network.parameters)[0]:
        scaled = replace(match, factors=with_scale(match.factors))
        for key, tensor in (host_tensors(scaled, network) or {}).items():
            tensors[key] = tensor.flatten(1) if key.endswith((".lora_up.weight", ".lora_down.weight")) else tensor
        if match.factors.rank:
            alpha = torch.tensor(float(match.factors.rank), dtype=torch.float32, device="cpu")
            tensors.update({f"{network.prefix}{module}.weight.alpha": alpha for module in match.modules})
    return tensors
