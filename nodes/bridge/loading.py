"""Load a SANA transformer file as ComfyUI's MODEL."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import comfy.sd
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher

from ...sana_core.checkpoint.fit import naming
from ...sana_core.errors import CheckpointError, SanaError
from ...sana_core.fast import fast_paths, make_fast
from .detection import detect
from .model import Sana
from .reading import read_model
from .registration import recognised_as

log = logging.getLogger("sana")


def load_model(
    path: str,
    variant: str | None = None,
    dtype: torch.dtype | None = None,
    trained_precision: str | None = None,
    model_options: Mapping[str, Any] | None = None,
    fast: str = "auto",
    disable_dynamic: bool = False,
) -> ModelPatcher:
    """The transformer in a file of any layout, by the host's own loader; its detection is not needed.

    variant: "512", "1024", "2k" or "4k" for a file that does not state it; None: from the file.  dtype: of the weights
    in memory; None: by the host's rules.  trained_precision: "float16" or "bfloat16" for a file that does not state it.
    model_options: the host's, such as custom_operations and fp8_optimizations.  fast: "off", "auto" or "max", see
    `sana_core/fast.py`.  disable_dynamic: the host asks for it when it needs a copy that is wholly in memory.  Raises
    CheckpointError.
    """
    options = {**(model_options or {}), **({} if dtype is None else {"dtype": dtype})}
    checkpoint = read_model(path)
    tensors, metadata = checkpoint.tensors, checkpoint.metadata
    if options.get("custom_operations") is None:
        tensors, metadata = comfy.utils.convert_old_quants(tensors, metadata=metadata)
    with naming(path):
        model_config = Sana(detect(tensors, metadata, variant, trained_precision))
    try:
        with recognised_as(model_config):
            patcher = comfy.sd.load_diffusion_model_state_dict(
                tensors, model_options=options, metadata=metadata, disable_dynamic=disable_dynamic
            )
    except SanaError as error:
        raise CheckpointError(f"{path}: {error}") from error
    network = patcher.model.diffusion_model
    network.fast = fast
    make_fast(network, fast=fast, device=patcher.load_device, stays=False, fullgraph=False)
    paths = fast_paths(
        fast, patcher.load_device, stays=not patcher.is_dynamic(), few_steps=network.config.guidance_embed
    )
    log.info("%s", "; ".join(paths))
    patcher.cached_patcher_init = (load_model, (path, variant, dtype, trained_precision, model_options, fast))
    return patcher
