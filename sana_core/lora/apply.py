"""Add a LoRA to the weights of a network."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, InputError
from ..quantised.layers import QuantisedEmbedding, QuantisedLinear, replace_layer
from .file import Lora
from .keys import without_wrappers
from .match import Match, match_lora, nothing_matches
from .report import LoraReport, log_unmatched

log = logging.getLogger("sana")
Held = dict[str, tuple[str, QuantisedLinear | QuantisedEmbedding]]
Undo = list[Callable[[], object]]
"""What puts back, last one first, all that was changed. The old weights are kept on the CPU."""


@torch.no_grad()
def apply_lora(network: nn.Module, lora: Lora, strength: float = 1.0) -> LoraReport:
    """Add `strength` times a LoRA to the weights of a SANA transformer or text encoder, compiled ones too.

    Calls add up. The opposite strength removes a LoRA to rounding; not a DoRA, whose change depends on the weight that
    it is added to, nor biases that a file replaces. Quantised weights stay as they are, a LoRA
    is kept beside them.

    Everything is checked before the first weight changes. An error later on, such as a shortage of memory, puts all
    weights back; for that the CPU holds a copy of the plain weights that change while this runs. Keys that fit nothing
    are logged and reported. Raises CheckpointError if nothing fits or a shape differs, and InputError for a strength
    that is no number or for weights that were cast to 8 bits.
    """
    if not (isinstance(strength, (int, float)) and math.isfinite(strength)):
        raise InputError(f"a LoRA at strength {strength!r}: expected a number such as 1")
    parameters, quantised = _parameters(network)
    _check_number_types(lora, parameters)
    matches, report = match_lora(lora, parameters, strength)
    if not matches:
        raise CheckpointError(nothing_matches(lora, parameters))
    log_unmatched(report)
    _check_tables(lora, matches, quantised)
    undo: Undo = []
    try:
        for match in matches if strength else ():
            _change(match, network, parameters, quantised, strength, undo)
    except BaseException:
        for put_back in reversed(undo):
            put_back()
        raise
    return report


def _parameters(network: nn.Module) -> tuple[dict[str, Tensor], Held]:
    """The weights of a network by the names of its plain layers, and its quantised layers with their real names. A
    quantised weight is a tensor of its shape on the meta device.
    """
    quantised = {
        without_wrappers(name): (name, layer)
        for name, layer in network.named_modules()
        if isinstance(layer, (QuantisedLinear, QuantisedEmbedding))
    }
    inside = tuple(f"{name}.{part}." for name in quantised for part in ("quantised", "beside"))
    named = {without_wrappers(key): tensor for key, tensor in network.state_dict().items()}
    parameters = {key: tensor for key, tensor in named.items() if not key.startswith(inside)}
    for name, (_, layer) in quantised.items():
        parameters[f"{name}.weight"] = torch.empty(layer.quantised.shape, dtype=torch.float32, device="meta")
    return parameters, quantised


def _check_number_types(lora: Lora, parameters: Mapping[str, Tensor]) -> None:
    for key, weight in parameters.items():
        if key.endswith(".weight") and (not weight.is_floating_point() or weight.element_size() < 2):
            raise InputError(
                f"{lora.source}: the weights of this model were cast to 8 bits ({key} is {weight.dtype}), to which a "
                "LoRA cannot be added: load it in bfloat16, float16 or float32. Nothing was changed"
            )


def _check_tables(lora: Lora, matches: list[Match], quantised: Held) -> None:
    for match in matches:
        for name in match.modules:
            if name in quantised and isinstance(quantised[name][1], QuantisedEmbedding):
                raise InputError(
                    f"{lora.source}: this LoRA changes {name}, which is quantised here: take a text encoder with its "
                    "embedding in 16 bits. Nothing was changed"
                )


def _change(
    match: Match,
    network: nn.Module,
    parameters: dict[str, Tensor],
    quantised: Held,
    strength: float,
    undo: Undo,
) -> None:
    """Change the modules of one match. A product of low rank goes beside quantised weights. Other kinds of change need
    the numbers: then the layer is held in 16 bits from now on.
    """
    held = {name: quantised[name] for name in match.modules if name in quantised}
    layers = [layer for _, layer in held.values() if isinstance(layer, QuantisedLinear)]
    pair = match.factors.low_rank()
    if layers and pair is not None and len(layers) == len(match.modules):
        up, down = pair
        for layer, rows in zip(layers, up.split([layer.quantised.shape[0] for layer in layers])):
            undo.append(partial(setattr, layer, "beside", layer.beside))
            layer.add_beside(strength * rows, down)
    else:
        dtype = next((p.dtype for p in parameters.values() if p.is_floating_point() and not p.is_meta), torch.float32)
        for (name, (real, _)), layer in zip(held.items(), layers):
            quantised.pop(name)
            plain = layer.plain(dtype)
            undo.append(partial(replace_layer, network, real, layer))
            replace_layer(network, real, plain)
            parameters[f"{name}.weight"] = plain.weight
            log.info("%s is not quantised any more: a %s cannot be kept beside it", name, match.factors.kind)
        weights = [parameters[f"{name}.weight"] for name in match.modules]
        factors = match.factors.to(weights[0].device)
        _add(factors.change(_joined(weights)), weights, strength, undo)
    biases = [parameters[f"{name}.bias"] for name in match.modules if f"{name}.bias" in parameters]
    if biases:
        _add(match.factors.to(biases[0].device).bias_change(_joined(biases)), biases, strength, undo)


def _joined(parameters: list[Tensor]) -> Tensor:
    """The parameters as rows of one, float32."""
    return torch.cat([parameter.float() for parameter in parameters])


def _add(change: Tensor | None, parameters: list[Tensor], strength: float, undo: Undo) -> None:
    """Add the rows of `change` (float32) to parameters that share them, summed in float32."""
    if change is None:
        return
    for parameter, part in zip(parameters, change.split([len(parameter) for parameter in parameters])):
        changed = parameter.float() + strength * part
        undo.append(partial(parameter.copy_, parameter.to("cpu", copy=True)))
        parameter.copy_(changed)
