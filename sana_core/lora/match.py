"""Which modules of a network a LoRA changes, checked before anything is changed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..checkpoint.kinds import describe_lora
from ..errors import CheckpointError
from .factors import Factors
from .file import Lora
from .names import TEXT_ENCODER, aliases, module_names
from .report import NETWORKS, LoraReport
from .shapes import change_shape, fits

RELEASES_BY_WIDTH = {1152: "SANA 0.6B", 2240: "SANA 1.6B or 4.8B"}
_BLOCK = re.compile(r"(?:transformer_blocks|blocks|layers)[._](\d{1,9})[._]")


@dataclass(frozen=True)
class Match:
    """Factors, the modules they change, and their name in the file. Several modules stand for the rows of a fused one."""

    name: str
    factors: Factors
    modules: tuple[str, ...]


def match_lora(lora: Lora, parameters: Mapping[str, Tensor], strength: float = 1.0) -> tuple[list[Match], LoraReport]:
    """Which modules of a network with these parameters a LoRA changes, perhaps none. Only shapes are read.

    Raises CheckpointError for a LoRA of a network of another width or depth.
    """
    known = aliases(module_names(parameters))
    matches = [Match(name, factors, known[name]) for name, factors in lora.modules.items() if name in known]
    is_text_encoder = _is_text_encoder(parameters)
    rest = [name for name in lora.modules if name not in known]
    other = [name for name in rest if name.startswith(TEXT_ENCODER) != is_text_encoder]
    elsewhere = tuple(key for name in other for key in lora.keys[name])
    unmatched = tuple(key for name in rest if name not in other for key in lora.keys[name])
    for match in matches:
        _check_weight(lora, match, parameters)
        _check_bias(lora, match, parameters)
    if matches:
        _check_depth(lora, parameters, unmatched)
    by_module = {module: match.factors for match in matches for module in match.modules}
    return matches, LoraReport(
        source=lora.source,
        network=NETWORKS[is_text_encoder],
        strength=strength,
        matched=tuple(by_module),
        unmatched=(*unmatched, *lora.unknown),
        elsewhere=elsewhere,
        kinds={module: str(factors.kind) for module, factors in by_module.items()},
        ranks={module: factors.rank for module, factors in by_module.items()},
        alphas={module: factors.alpha for module, factors in by_module.items()},
    )


def parameter_shape(parameters: Mapping[str, Tensor], key: str) -> torch.Size:
    """The logical shape of a parameter, (out, in, ...): that of the numbers it stands for, however they are stored."""
    return parameters[key].shape


def fused_shape(parameters: Mapping[str, Tensor], match: Match) -> torch.Size:
    """The logical shape of the weight that a match changes: the rows of all its modules."""
    shapes = [parameter_shape(parameters, f"{module}.weight") for module in match.modules]
    return torch.Size((sum(shape[0] for shape in shapes), *shapes[0][1:]))


def _check_weight(lora: Lora, match: Match, parameters: Mapping[str, Tensor]) -> None:
    expected = tuple(fused_shape(parameters, match))
    try:
        fitting = fits(match.factors, expected)
    except ValueError as error:
        shapes = ", ".join(f"{role} {tuple(tensor.shape)}" for role, tensor in match.factors.tensors.items())
        raise CheckpointError(
            f"{lora.source}: the tensors of {match.name} ({shapes}) do not make a change of a {expected} weight "
            f"({error}); the file is damaged or of another model. Nothing was changed"
        ) from error
    if not fitting:
        raise CheckpointError(_mismatch(lora, match.name, change_shape(match.factors) or (), expected))


def _check_bias(lora: Lora, match: Match, parameters: Mapping[str, Tensor]) -> None:
    keys = [f"{module}.bias" for module in match.modules]
    size = sum(parameter_shape(parameters, key).numel() for key in keys if key in parameters)
    for role in {"diff_b", "up_bias", "bias"} & match.factors.tensors.keys():
        found = match.factors.tensors[role].shape
        if size == 0:
            raise CheckpointError(
                f"{lora.source}: this LoRA changes the bias of {match.name}, which has none in this model: train it "
                "again without it (lora_bias=False in PEFT). Nothing was changed"
            )
        if found != (size,):
            raise CheckpointError(_mismatch(lora, f"{match.name} (bias)", found, (size,)))


def _mismatch(lora: Lora, name: str, found: Sequence[int], expected: Sequence[int]) -> str:
    return (
        f"{lora.source}: this LoRA is of another model. Its change of {name} is {tuple(found)}{_release(found)}, the "
        f"weight here is {tuple(expected)}{_release(expected)}. Use a LoRA that was trained on this release, or load "
        "the model it was trained on. Nothing was changed"
    )


def _release(shape: Sequence[int]) -> str:
    return next((f" ({RELEASES_BY_WIDTH[size]})" for size in shape if size in RELEASES_BY_WIDTH), "")


def _check_depth(lora: Lora, parameters: Mapping[str, Tensor], unmatched: tuple[str, ...]) -> None:
    """A LoRA of a deeper network fits the first blocks of this one by shape, and means nothing there."""

    def depth(keys: Iterable[str]) -> int:
        return 1 + max((int(found[1]) for found in map(_BLOCK.search, keys) if found), default=-1)

    has, needs = depth(parameters), depth(unmatched)
    if needs > has:
        raise CheckpointError(
            f"{lora.source}: this LoRA was trained on a model with {needs} blocks, this one has {has}: "
            "use a LoRA that was trained on this release. Nothing was changed"
        )


def nothing_matches(lora: Lora, parameters: Mapping[str, Tensor]) -> str:
    """The error for a LoRA of which nothing fits a network with these parameters."""
    is_text_encoder, names = _is_text_encoder(parameters), list(lora.modules)
    if not names:
        example = next(iter(lora.unknown), None)
        return f"{lora.source}: expected a LoRA, found none of a known kind (one of its keys is {example})"
    if not is_text_encoder and not lora.has_transformer:
        return (
            f"{lora.source}: this LoRA changes a text encoder only (such as {names[0]}), not the transformer: "
            "give it the text encoder"
        )
    example = next(name for name in parameters if "blocks.0." in name or "layers.0." in name)
    return (
        f"{lora.source}: expected a LoRA of this SANA {NETWORKS[is_text_encoder]}, found {describe_lora(names)}. "
        f"Nothing in it fits: it changes {names[0]}, this model has weights such as {example}. Use a LoRA that was "
        "trained on SANA"
    )


def _is_text_encoder(parameters: Mapping[str, Tensor]) -> bool:
    return not any(name.startswith("transformer_blocks.") for name in parameters)
