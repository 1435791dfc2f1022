"""LoRA in ComfyUI: sana_core reads every dialect, ComfyUI's own adapters do the work, so that hooks, offload and other
nodes fit in.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import comfy.model_management
import comfy.sd
import comfy.utils
import torch
from comfy.weight_adapter import WeightAdapterBase
from torch import Tensor

from ...sana_core.errors import CheckpointError, InputError, listed, printable
from ...sana_core.kit import Kit
from ...sana_core.lora.file import Lora, load_lora, parse_lora
from ...sana_core.lora.match import match_lora, nothing_matches
from ...sana_core.lora.names import TEXT_ENCODER, aliases, module_names
from ...sana_core.lora.peft import stated_config
from ...sana_core.lora.report import log_unmatched
from ...sana_core.transformer.model import SanaTransformer
from .dora import exact_dora
from .lora_shortage import raising
from .lora_tensors import Network, host_tensors
from .model import SanaModel
from .text_encoder import NAME, SanaGemma

log = logging.getLogger("sana")
TRANSFORMER, GEMMA = "diffusion_model.", f"{NAME}.transformer."  # before the weights' keys in the host's two models
GEMMA_DIALECT = f"text_encoders.{GEMMA}"  # before the host's own LoRA names of the text encoder


class LoraFile(dict[str, Tensor]):
    """The tensors of a LoRA file as the host reads it, with PEFT's configuration, which often alone states alpha."""

    config: str | bytes
    path: str


class SanaKeys(dict[str, str]):
    """The host's map from LoRA names to weights, and what this pack knows of those that are SANA's."""

    transformer: Network | None = None
    text_encoder: Network | None = None


def with_config(tensors: Mapping[str, Tensor], path: str, metadata: Mapping[str, str] | None) -> Mapping[str, Tensor]:
    """The content of a file: the same tensors, with PEFT's configuration if there is one."""
    config = stated_config(path, metadata)
    if config is None:
        return tensors
    file = LoraFile(tensors)
    file.config, file.path = config, path
    return file


def read_tensors(tensors: Mapping[str, Tensor]) -> Lora:
    """A LoRA from the tensors that a node of the host has read."""
    if isinstance(tensors, LoraFile):
        return parse_lora(tensors, tensors.config, tensors.path)
    return parse_lora(tensors)


def transformer_keys(model: SanaModel, keys: dict[str, str]) -> SanaKeys:
    """`keys` and every further name that files have for the transformer's modules."""
    network = transformer_network(model)
    for alias, modules in aliases(module_names(network.parameters)).items():
        if len(modules) == 1:
            keys.setdefault(alias, f"{TRANSFORMER}{modules[0]}.weight")
    extended = keys if isinstance(keys, SanaKeys) else SanaKeys(keys)
    extended.transformer = network
    return extended


def gemma_keys(text_model: torch.nn.Module, keys: dict[str, str]) -> dict[str, str]:
    """`keys` with the names that files have for Gemma-2's modules, if this is the pack's text encoder."""
    if not _is_gemma(text_model):
        return keys
    network = gemma_network(text_model)
    for alias, modules in aliases(module_names(network.parameters)).items():
        keys.setdefault(alias, f"{GEMMA}{modules[0]}.weight")
    extended = keys if isinstance(keys, SanaKeys) else SanaKeys(keys)
    extended.text_encoder = network
    return extended


def _is_gemma(text_model: torch.nn.Module) -> bool:
    return isinstance(getattr(text_model, NAME, None), SanaGemma)


def transformer_network(model: SanaModel) -> Network:
    """Shapes by the configuration: the weights themselves may be quantised, or not there yet."""
    shapes = SanaTransformer(model.diffusion_model.config, Kit(device="meta")).state_dict()
    return Network(shapes, TRANSFORMER, lambda key: _unpatched(model, TRANSFORMER + key))


def gemma_network(text_model: torch.nn.Module) -> Network:
    """Shapes by the parameters: quantised ones have their logical shape there, but not in the state dict."""
    parameters = dict(text_model.named_parameters())
    own = {key.removeprefix(GEMMA): tensor for key, tensor in parameters.items() if key.startswith(GEMMA)}
    return Network(own, GEMMA_DIALECT, own.__getitem__)


def _unpatched(model: SanaModel, key: str) -> Tensor:
    """A parameter without the LoRAs that the host has added to it; the host keeps it for the time after."""
    for loaded in comfy.model_management.current_loaded_models:
        patcher = loaded.model
        if patcher is not None and patcher.model is model:
            if key in patcher.hook_backup:
                return patcher.hook_backup[key][0]
            if key in patcher.backup:
                return patcher.backup[key].weight
    return comfy.utils.get_attr(model, key)


def load_patches(
    load_lora: Callable[..., dict[Any, Any]], tensors: Mapping[str, Tensor], keys: SanaKeys, *args: Any, **kwargs: Any
) -> dict[Any, Any]:
    """What the host's `load_lora(tensors, keys, log_missing=True)` makes of a LoRA for SANA, with exact DoRA.

    It gets the tensors that fit one of the networks in its own dialect, and all others as they are. Raises
    CheckpointError for a LoRA of a transformer of another width or depth, and for one that fits nothing.
    """
    lora = read_tensors(tensors)
    converted, done = _converted(lora, keys)
    converted = {**{key: tensor for key, tensor in tensors.items() if key not in done}, **converted}
    patches = load_lora(converted, keys, *args, **kwargs)
    if keys.transformer is not None:
        if not patches and not done and (lora.has_transformer or not lora.modules):
            raise CheckpointError(nothing_matches(lora, keys.transformer.parameters))
        if not (args[0] if args else kwargs.get("log_missing", True)):  # else the host names them
            _log_unused(lora.source, converted, patches)
    adapters = {key: patch for key, patch in patches.items() if isinstance(patch, WeightAdapterBase)}
    return {**patches, **{key: raising(exact_dora(adapter)) for key, adapter in adapters.items()}}


def _converted(lora: Lora, keys: SanaKeys) -> tuple[dict[str, Tensor], set[str]]:
    """Tensors in the host's dialect, and the file's keys that they stand for."""
    converted: dict[str, Tensor] = {}
    done: set[str] = set()
    for network in filter(None, (keys.transformer, keys.text_encoder)):
        for match in match_lora(lora, network.parameters)[0]:
            tensors = host_tensors(match, network)
            if tensors is not None:
                converted.update(tensors)
                done.update(lora.keys[match.name])
    return converted, done


def _log_unused(source: str, tensors: Mapping[str, Tensor], patches: Mapping[Any, Any]) -> None:
    adapters = [patch for patch in patches.values() if isinstance(patch, WeightAdapterBase)]
    used = set().union(*(adapter.loaded_keys for adapter in adapters))
    unused = [key for key in tensors if key not in used and not key.startswith(TEXT_ENCODER)]
    if adapters and unused:
        count, named = len(unused), printable(listed(unused))
        log.warning("%s: %d keys fit nothing in this model and are not used: %s", source, count, named)


def load_lora_file(
    model: Any, clip: Any, path: str, strength_model: float, strength_clip: float
) -> tuple[Any, Any, str]:
    """MODEL and CLIP (or None) with the LoRA of a file, and a report. Raises CheckpointError and InputError."""
    if not isinstance(model.model, SanaModel):
        raise InputError(
            f"this node loads a LoRA into SANA models, got {type(model.model).__name__}: use Load LoRA for other models"
        )
    lora = load_lora(path)
    parts = [(transformer_network(model.model), strength_model)]
    if clip is not None:
        if not _is_gemma(clip.cond_stage_model):
            raise InputError(
                "this CLIP is not SANA's Gemma-2: load it with Load SANA or Load SANA Text Encoder (Gemma)"
            )
        parts.append((gemma_network(clip.cond_stage_model), strength_clip))
    tensors: dict[str, Tensor] = {}
    reports = []
    for network, strength in parts:
        matches, report = match_lora(lora, network.parameters, strength)
        log_unmatched(report)
        reports += [str(report)] if matches else []
        for match in matches:
            tensors.update(host_tensors(match, network) or {})
    if not tensors:
        raise CheckpointError(nothing_matches(lora, parts[0][0].parameters))
    patched = comfy.sd.load_lora_for_models(model, clip, tensors, strength_model, strength_clip)
    return *patched, "\n\n".join(reports)
