"""Load the networks of a pipeline."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch

from ..checkpoint.load import load_autoencoder, load_controlnet, load_transformer
from ..device import pick_device
from ..errors import InputError
from ..fast import FAST, fast_paths, make_fast
from ..precision import companion_dtype, loaded_dtype
from ..sources import pipeline_files, released_sampling
from ..text.load import load_text_encoder
from .checks import choice
from .pipeline import SanaPipeline

log = logging.getLogger("sana")
DTYPES = (None, torch.float32, torch.bfloat16, torch.float16, torch.float64)


def load_pipeline(
    source: str | Path | Mapping[str, str | Path] = "nano",
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    variant: str | None = None,
    trained_precision: str | None = None,
    controlnet: str | Path | None = None,
    control_order: str = "upstream",
    offload: bool = False,
    fast: str = "auto",
) -> SanaPipeline:
    """Load the three networks of SANA, and a ControlNet if there is one.

    source: "nano" or "nano-sprint", the embedded models; a diffusers pipeline folder; or paths under "transformer",
    "autoencoder", "text_encoder" and, if the text encoder's file has none inside, "tokenizer"; "controlnet" is
    optional. device: None takes the GPU if there is one. dtype: of the transformer; None is float32 on the CPU and the
    file's own on a GPU. Autoencoder and text encoder overflow float16. They run in bfloat16, or in float32 if dtype
    is float32 or the device has no bfloat16. variant: "512", "1024", "2k" or "4k", for a transformer file that does not
    state it. trained_precision: "float16" or "bfloat16", for a file that does not state how the model was trained, see
    `precision.py`. controlnet: a file or folder, in place of that in `source`. control_order: how it is connected,
    "upstream" or "diffusers", see `transformer/controlnet.py`. offload: the networks live on the CPU and take turns on
    the device, see `SanaPipeline`. fast: "off", "auto" or "max", see `fast.py`.

    Raises CheckpointError or InputError.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype={dtype!r}, expected torch.float32, torch.bfloat16, torch.float16 or None")
    choice("fast", fast, FAST)
    place, files = pick_device(device), pipeline_files(source)
    if dtype is None and place.type == "cpu":
        dtype = torch.float32
    home = torch.device("cpu") if offload else place
    companions = companion_dtype(dtype, place)
    transformer = load_transformer(
        files.transformer, device=home, dtype=dtype, variant=variant, trained_precision=trained_precision
    )
    if offload and dtype is None:  # the file's own type may be one that the CPU has and the device has not
        transformer.to(loaded_dtype(transformer.config, transformer.scale_shift_table.dtype, place))
    network, path = None, controlnet or files.controlnet
    if path is not None:
        network = load_controlnet(path, order=control_order, device=home, dtype=transformer.scale_shift_table.dtype)
        network.check_base(transformer.config)
    autoencoder = load_autoencoder(files.autoencoder, device=home, dtype=companions)
    others = [autoencoder] if network is None else [autoencoder, network]
    make_fast(transformer, *others, fast=fast, device=place, stays=not offload)
    if fast == "max" or place.type != "cpu":  # else there is nothing to say
        few_steps = transformer.config.guidance_embed
        log.info("%s", "; ".join(fast_paths(fast, place, stays=not offload, few_steps=few_steps)))
    return SanaPipeline(
        transformer=transformer,
        autoencoder=autoencoder,
        text_encoder=load_text_encoder(files.text_encoder, tokenizer=files.tokenizer, device=home, dtype=companions),
        controlnet=network,
        defaults=released_sampling(files, transformer.config, variant),
        device=place,
        offload=offload,
        fast=fast,
    )
