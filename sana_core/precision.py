"""Which number type a release was trained in, which it runs in, and what to say when another one is forced on it.

Two kinds of releases exist. SANA 0.6B, and 1.6B without BF16 in its name, were trained in float16. Their training
clamped the output of self-attention to the range of float16, and values before the clamp reach 1e6. So the clamp is a
part of these networks, in every number type (measured by the authors and by a user in huggingface/diffusers issue
10336). BF16, 2K, 4K, 1.5 and Sprint were trained in bfloat16. Their values leave the range of float16, and they have no
clamp.

A float32 or bfloat16 file of the 1.6B model may be of either kind. Such a file gets the clamp and runs in bfloat16. A
float16-trained network needs the clamp; on a bfloat16-trained one it has no effect (in the same measurements the BF16
release drew the same picture with it). Both kinds need the range of bfloat16; its coarser steps cost a float16-trained
network little.
"""

from __future__ import annotations

import logging

import torch

from .config import TransformerConfig
from .device import can_compute, usable
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
    """Was the network trained in float16? True, False or None for unknown, and the reason in words.

    stored: number type of the file's tensors.  native_size: pixels, None if unknown.  chosen: the user's "float16" or
    "bfloat16"; None: decide here.  stated: what the file says of itself.  Raises InputError for another choice.
    """
    if chosen is not None:
        if chosen not in TRAINED_PRECISIONS:
            raise InputError(
                f'trained precision "{chosen}", expected {" or ".join(TRAINED_PRECISIONS)}, or none to decide by the '
                "file"
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
    return None, f"stored in {dtype_name(stored)}, which both kinds are"


def run_dtypes(config: TransformerConfig, device: str | torch.device | None = None) -> list[torch.dtype]:
    """The number types the network can compute in, best first; with a device, those that it computes in itself."""
    dtypes = [torch.float16 if config.fp16_trained else torch.bfloat16, torch.float32]
    return dtypes if device is None else [dtype for dtype in dtypes if can_compute(torch.device(device), dtype)]


def loaded_dtype(
    config: TransformerConfig, stored: torch.dtype, device: str | torch.device | None = None
) -> torch.dtype:
    """The number type of the weights if the caller names none: the file's own, if network and device compute in it."""
    dtypes = run_dtypes(config, device)
    return stored if stored in dtypes else dtypes[0]


def companion_dtype(dtype: torch.dtype | None, device: str | torch.device) -> torch.dtype:
    """The number type of autoencoder and text encoder beside a transformer in `dtype`, None for its own.

    float32 beside float32, and on a device that does not compute in bfloat16 itself; else bfloat16. Both networks
    overflow float16.
    """
    return torch.float32 if dtype == torch.float32 else usable(torch.bfloat16, device)


def full_range(dtype: torch.dtype, network: str, device: str | torch.device | None = None) -> torch.dtype:
    """`dtype`, or bfloat16 if `dtype` has a smaller range: DC-AE and Gemma-2 overflow float16 and give black pictures
    or NaN.

    device: float32 takes the place of bfloat16 if this device does not compute in bfloat16 itself.
    """
    if torch.finfo(dtype).max >= torch.finfo(torch.bfloat16).max:
        return dtype
    wider = torch.bfloat16 if device is None else usable(torch.bfloat16, device)
    log.info("%s runs in %s instead of %s, which it overflows", network, dtype_name(wider), dtype_name(dtype))
    return wider


def precision_warning(config: TransformerConfig, dtype: torch.dtype) -> str | None:
    """A warning if this network was not trained to compute in `dtype`: what happens, and what to choose instead."""
    if dtype == torch.float16 and config.fp16_trained is None:
        return (
            "this SANA model was made to compute in float16, but its file does not tell whether it was trained in it. "
            "If it was not, values leave float16's range and the picture comes out black or broken: choose bfloat16. "
            "If it was, set the trained precision to float16"
        )
    if dtype == torch.float16 and not config.fp16_trained:
        return (
            "this SANA model was trained in bfloat16 but was made to compute in float16: values leave float16's range "
            "and the picture comes out black or broken. Choose bfloat16, or float32 where the GPU has no bfloat16"
        )
    if dtype == torch.bfloat16 and config.fp16_trained:
        return (
            "this SANA model was trained in float16 but was made to compute in bfloat16, which is eight times coarser: "
            "expect a picture with less detail or a broken one. Choose float16, or float32 where the GPU has no float16"
        )
    return None


def precision_words(config: TransformerConfig, reason: str) -> str:
    """The decision in words, for the log."""
    if config.fp16_trained is None:
        return f"trained precision unknown ({reason}): keeps float16's clamp"
    kind = "float16, so with its clamp" if config.fp16_trained else "bfloat16"
    return f"trained in {kind} ({reason})"


def dtype_name(dtype: torch.dtype) -> str:
    """Such as "bfloat16"."""
    return str(dtype).removeprefix("torch.")
