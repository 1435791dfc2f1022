"""Which number type a release was trained in, which it runs in, and what to say when another one is forced on it.

Releases trained in float16 (SANA 0.6B; 1.6B without BF16 in its name) had the output of their self-attention clamped to
float16's range in training, values behind it reach 1e6: the clamp is part of what the network computes, in every number
type (the authors and a user's measurements in huggingface/diffusers issue 10336). BF16, 2K, 4K, 1.5 and Sprint were
trained in bfloat16, whose range float16 lacks.

A float32 or bfloat16 file of the 1.6B model does not tell which of the two it is. It gets the clamp and bfloat16: the
clamp is needed by the ones, and does nothing to the others (the same measurements: the BF16 release drew the same
picture with it); bfloat16 has the range that both need, and only coarser steps than the ones were trained with.
"""

from __future__ import annotations

import logging

import torch

from .config import TransformerConfig
from .errors import InputError
from .presets import RELEASES, same_network

log = logging.getLogger("sana")
TRAINED_PRECISIONS = ("float16", "bfloat16")


def trained_in_fp16(
    config: TransformerConfig,
    stored: torch.dtype,
    *,
    native_size: int | None = None,
    chosen: str | None = None,
    stated: bool | None = None,
) -> tuple[bool | None, str]:
    """Was it trained in float16? The answer, None where nothing tells, and the reason in words.

    stored: number type of the file's tensors.  native_size: pixels, where known.  chosen: the user's "float16" or
    "bfloat16"; None: decide. stated: what the file says of itself.  Raises InputError for another choice.
    """
    if chosen is not None:
        if chosen not in TRAINED_PRECISIONS:
            raise InputError(
                f'trained precision "{chosen}", expected {" or ".join(TRAINED_PRECISIONS)}, or none to decide by the file'
            )
        return chosen == "float16", "as chosen"
    if stated is not None:
        return stated, "as its file states"
    if config.qk_norm or config.guidance_embed or config.position:
        return False, "as all of SANA-1.5, Sprint, 2K and 4K"
    if stored == torch.float16:
        return True, "stored in it"
    if stored == torch.bfloat16:
        return None, "stored in bfloat16, which both kinds may be"
    kinds = {
        release.dtype
        for release in RELEASES
        if same_network(release.config, config) and native_size in (None, release.native_size)
    }
    if len(kinds) == 1:
        return kinds == {torch.float16}, "as all published models of this size"
    return None, f"stored in {_name(stored)}, which both kinds are"


def run_dtypes(config: TransformerConfig) -> list[torch.dtype]:
    """The number types the network can compute in, best first."""
    return [torch.float16 if config.fp16_trained else torch.bfloat16, torch.float32]


def loaded_dtype(config: TransformerConfig, stored: torch.dtype) -> torch.dtype:
    """The number type of the weights where the caller names none: the file's own, if the network can compute in it."""
    return stored if stored in run_dtypes(config) else run_dtypes(config)[0]


def full_range(dtype: torch.dtype, network: str) -> torch.dtype:
    """`dtype`, or bfloat16 in place of one with a smaller range: DC-AE and Gemma-2 overflow float16 and give black
    pictures or NaN.
    """
    if torch.finfo(dtype).max >= torch.finfo(torch.bfloat16).max:
        return dtype
    log.info("%s runs in bfloat16 instead of %s, which it overflows", network, _name(dtype))
    return torch.bfloat16


def precision_warning(config: TransformerConfig, dtype: torch.dtype) -> str | None:
    """What happens when this network computes in `dtype`, if that is not what it was trained for, and what to choose."""
    if dtype == torch.float16 and config.fp16_trained is None:
        return (
            "this SANA model was made to compute in float16, but its file does not tell whether it was trained in it; "
            "if not, values leave "
            "float16's range and the picture comes out black or broken. Then choose bfloat16; else set the trained "
            "precision to float16"
        )
    if dtype == torch.float16 and not config.fp16_trained:
        return (
            "this SANA model was trained in bfloat16 but was made to compute in float16: values leave float16's range "
            "and the picture "
            "comes out black or broken. Choose bfloat16, or float32 where the GPU has no bfloat16"
        )
    if dtype == torch.bfloat16 and config.fp16_trained:
        return (
            "this SANA model was trained in float16 but was made to compute in bfloat16, which is eight times coarser: "
            "expect a picture "
            "with less detail or a broken one. Choose float16, or float32 where the GPU has no float16"
        )
    return None


def precision_words(config: TransformerConfig, reason: str) -> str:
    """The decision in words, for the log."""
    if config.fp16_trained is None:
        return f"trained precision unknown ({reason}): keeps float16's clamp"
    kind = "float16, so with its clamp" if config.fp16_trained else "bfloat16"
    return f"trained in {kind} ({reason})"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
