"""LoRA in ComfyUI: sana_core reads every dialect, ComfyUI's own adapters do the work, so that hooks, offload and other
nodes fit in.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, cast

import comfy.sd
import torch
from comfy.weight_adapter import WeightAdapterBase
from torch import Tensor

from ...sana_core.errors import CheckpointError, InputError
from ...sana_core.kit import Kit
from ...sana_core.lora.factors import Factors
from ...sana_core.lora.file import METADATA_KEY, load_lora, parse_lora
from ...sana_core.lora.match import Match, match_lora, nothing_matches
from ...sana_core.lora.names import TEXT_ENCODER, aliases, module_names
from ...sana_core.lora.report import log_unmatched, shortened
from ...sana_core.transformer.model import SanaTransformer
from .dora import exact_dora
from .model import SanaModel
from .text_encoder import NAME, SanaGemma

log = logging.getLogger("sana")
TRANSFORMER, GEMMA = "diffusion_model.", f"{NAME}.transformer."  # before the weights' keys in the host's two models
GEMMA_DIALECT = f"text_encoders.{GEMMA}"  # before the host's own LoRA names of the text encoder
TALL = {"up", "hada_w1_a", "hada_w2_a", "diff", "diff_b", "dora_scale", "magnitude"}  # roles with the weight's rows
SUFFIXES = {"up": "lora_up.weight", "down": "lora_down.weight", "mid": "lora_mid.weight", "magnitude": "dora_scale"}


class SanaKeys(dict[str, str]):
    """The host's map from LoRA names to weights, of a SANA model, with the weights' shapes (meta tensors)."""

    parameters: Mapping[str, Tensor]


def transformer_keys(model: SanaModel, keys: dict[str, str]) -> SanaKeys:
    """`keys` and every further name that files have for the transformer's modules."""
    parameters = transformer_parameters(model)
    for alias, modules in aliases(module_names(parameters)).items():
        if len(modules) == 1:
            keys.setdefault(alias, f"{TRANSFORMER}{modules[0]}.weight")
    extended = SanaKeys(keys)
    extended.parameters = parameters
    return extended


def gemma_keys(text_model: torch.nn.Module, keys: dict[str, str]) -> dict[str, str]:
    """`keys` with the names that files have for Gemma-2's modules, where this is the pack's text encoder."""
    if _is_gemma(text_model):
        for alias, modules in aliases(module_names(_gemma_parameters(text_model))).items():
            keys.setdefault(alias, f"{GEMMA}{modules[0]}.weight")
    return keys


def is_ours(model: Any, clip: Any) -> bool:
    """Is this MODEL a SANA model, or this CLIP the pack's text encoder? Either may be None."""
    return (model is not None and isinstance(model.model, SanaModel)) or (
        clip is not None and _is_gemma(clip.cond_stage_model)
    )


def _is_gemma(text_model: torch.nn.Module) -> bool:
    return isinstance(getattr(text_model, NAME, None), SanaGemma)


def transformer_parameters(model: SanaModel) -> Mapping[str, Tensor]:
    """Shapes by the configuration: the weights themselves may be quantised, or not there yet."""
    return SanaTransformer(model.diffusion_model.config, Kit(device="meta")).state_dict()


def _gemma_parameters(text_model: torch.nn.Module) -> dict[str, Tensor]:
    return {key.removeprefix(GEMMA): tensor for key, tensor in text_model.state_dict().items() if key.startswith(GEMMA)}


def host_lora(tensors: Mapping[str, Tensor], keys: SanaKeys) -> dict[str, Tensor]:
    """A LoRA file's tensors with what fits the transformer in the host's own dialect; all other keys as they are.

    Raises CheckpointError for a LoRA of a transformer of another width or depth.
    """
    lora = parse_lora(tensors)
    matches, _ = match_lora(lora, keys.parameters)
    converted: dict[str, Tensor] = {}
    done: set[str] = set()
    for match in matches:
        own = host_tensors(match, keys.parameters, TRANSFORMER)
        converted.update(own)
        done.update(lora.keys[match.name] if own else ())
    return {**{key: tensor for key, tensor in tensors.items() if key not in done}, **converted}


def host_tensors(match: Match, parameters: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The factors of one match by the host's names. Factors of a fused module are cut into the rows of each of its
    parts; a DoRA on the columns of one cannot be cut, and none are returned.
    """
    weights = [parameters[f"{module}.weight"] for module in match.modules]
    parts = [match.factors] if len(weights) == 1 else _cut(match.factors, [len(weight) for weight in weights])
    named = (_named(part, prefix + module, weight.shape) for module, weight, part in zip(match.modules, weights, parts))
    return {key: tensor for tensors in named for key, tensor in tensors.items()}


def _cut(factors: Factors, rows: list[int]) -> list[Factors]:
    """Factors for each group of rows of a fused weight."""
    roles = factors.tensors
    comes_apart = ({"up", "hada_w1_a"} & roles.keys()) and not {"mid", "hada_t1"} & roles.keys()
    if {"magnitude", "dora_scale"} & roles.keys() and not (comes_apart and factors.per_row(sum(rows))):
        return []
    if not comes_apart and not {"diff", "diff_b"} & roles.keys():
        factors = Factors(tensors={"diff": cast(Tensor, factors.delta())})
    cut = {
        role: tensor.split(rows) if role in TALL else [tensor] * len(rows) for role, tensor in factors.tensors.items()
    }
    return [
        Factors(tensors={role: parts[i] for role, parts in cut.items()}, alpha=factors.alpha) for i in range(len(rows))
    ]


def _named(factors: Factors, module: str, shape: torch.Size) -> dict[str, Tensor]:
    named = {
        f"{module}.{SUFFIXES.get(role, role)}": _shaped(role, tensor, shape) for role, tensor in factors.tensors.items()
    }
    return named if factors.alpha is None else {**named, f"{module}.alpha": torch.tensor(factors.alpha)}


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


def with_stated_alphas(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, Tensor]:
    """A LoRA file's tensors and, as tensors too, the alphas that its metadata states."""
    lora = parse_lora(tensors, metadata.get(METADATA_KEY))
    stated = {f"{name}.alpha": factors.alpha for name, factors in lora.modules.items() if factors.alpha is not None}
    return {**{key: torch.tensor(alpha) for key, alpha in stated.items()}, **tensors}


def checked_patches(
    patches: dict[Any, Any], tensors: Mapping[str, Tensor], keys: SanaKeys, log_missing: bool
) -> dict[Any, Any]:
    """What the host made of a LoRA for a SANA model, with exact DoRA. log_missing: the host has logged the keys it did
    not use.

    Raises CheckpointError where it made nothing of a LoRA for a transformer.
    """
    lora = parse_lora(tensors)
    if not patches and (lora.has_transformer or not lora.modules):
        raise CheckpointError(nothing_matches(lora, keys.parameters))
    adapters = [patch for patch in patches.values() if isinstance(patch, WeightAdapterBase)]
    used = set().union(*(adapter.loaded_keys for adapter in adapters))
    unused = [key for key in tensors if key not in used and not key.startswith(TEXT_ENCODER)]
    if adapters and unused and not log_missing:
        log.warning("%d keys of a LoRA fit nothing in this model and are not used: %s", len(unused), shortened(unused))
    return {key: exact_dora(patch) if isinstance(patch, WeightAdapterBase) else patch for key, patch in patches.items()}


def load_lora_file(
    model: Any, clip: Any, path: str, strength_model: float, strength_clip: float
) -> tuple[Any, Any, str]:
    """MODEL and CLIP (None passes through) with the LoRA of a file, and a report. Raises CheckpointError, InputError."""
    if not isinstance(model.model, SanaModel):
        raise InputError(
            f"this node loads a LoRA into SANA models, got {type(model.model).__name__}: use Load LoRA for other models"
        )
    lora = load_lora(path)
    parts = [(transformer_parameters(model.model), TRANSFORMER, strength_model)]
    if clip is not None:
        if not _is_gemma(clip.cond_stage_model):
            raise InputError("this CLIP is not SANA's Gemma-2: load it with Load SANA or Load SANA Text Encoder")
        parts.append((_gemma_parameters(clip.cond_stage_model), GEMMA_DIALECT, strength_clip))
    found = [(*match_lora(lora, parameters, strength), parameters, prefix) for parameters, prefix, strength in parts]
    tensors: dict[str, Tensor] = {}
    for matches, report, parameters, prefix in found:
        log_unmatched(report)
        for match in matches:
            tensors.update(host_tensors(match, parameters, prefix))
    if not tensors:
        raise CheckpointError(nothing_matches(lora, parts[0][0]))
    patched = comfy.sd.load_lora_for_models(model, clip, tensors, strength_model, strength_clip)
    return *patched, "\n\n".join(str(report) for matches, report, *_ in found if matches)
