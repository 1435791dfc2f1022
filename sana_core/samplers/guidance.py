"""Guidance: how several predictions of one model become one. Predictions are velocities or x0, of any shape."""

from __future__ import annotations

import re
from collections.abc import Collection

from torch import Tensor

from ..errors import InputError


def classifier_free_guidance(cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    """Away from the unconditional prediction (arXiv:2207.12598): 1 gives cond, 0 gives uncond."""
    return uncond + scale * (cond - uncond)


def perturbed_attention_guidance(guided: Tensor, cond: Tensor, perturbed: Tensor, scale: float) -> Tensor:
    """Away from what the model predicts for the same prompt with perturbed self-attention (PAG, arXiv:2403.17377, eq.
    16); 0: `guided`.
    """
    return guided + scale * (cond - perturbed)


def adaptive_scale(scale: float, decay: float, timestep: float) -> float:
    """PAG's scale at a timestep in 0..1000: it falls by `decay` per timestep from 1000 on, not below 0 (diffusers,
    pag_utils.py).
    """
    return max(scale - decay * (1000.0 - timestep), 0.0)


def block_numbers(text: str) -> list[int]:
    """ "8, 9" -> [8, 9], the blocks of perturbed-attention guidance as people write them. Raises InputError."""
    if not re.fullmatch(r"\s*\d+(\s*[,\s]\s*\d+)*\s*,?\s*", text):
        raise InputError(
            f'"{text}" does not name blocks of the model: expected numbers separated by commas, such as 8 or 8, 9'
        )
    return [int(number) for number in re.findall(r"\d+", text)]


def check_pag_layers(layers: Collection[int], depth: int) -> tuple[int, ...]:
    """The numbers of the blocks to perturb, in order. Raises InputError where there is none, or one that the model does
    not have.
    """
    missing = [layer for layer in layers if not 0 <= layer < depth]
    if missing or not layers:
        found = ", ".join(map(str, missing or layers)) or "none"
        raise InputError(
            f"perturbed-attention guidance in blocks {found}: this model has the blocks 0 to {depth - 1}, name some of "
            "them"
        )
    return tuple(sorted(set(layers)))
