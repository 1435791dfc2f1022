"""Gemma-2 as ComfyUI's CLIP: its loader, and the text encoder of an all-in-one checkpoint."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import comfy.sd
import folder_paths
import torch
from comfy.supported_models_base import ClipTarget
from comfy.text_encoders.hunyuan_video import llama_detect
from torch import Tensor

from ...sana_core.checkpoint.files import read_checkpoint
from ...sana_core.config import TextConfig
from ...sana_core.errors import CheckpointError
from ...sana_core.text.detect import QUANTISED, SPIECE_KEY
from ...sana_core.text.load import load_text_encoder as check_text_encoder
from .gemma import SanaGemma, SanaTextModel
from .tokenizer import CONFIG_KEY, NAME, SanaTokenizer


def load_text_encoder(path: str) -> comfy.sd.CLIP:
    """Gemma-2 with its tokenizer from one file, as the host's CLIP. It is checked before a tensor is read. Raises
    CheckpointError.
    """
    header = read_checkpoint(path, "meta")
    quantised = any(
        mark in key for key in header.tensors for mark in QUANTISED
    )  # the host knows these; only Gemma-2-2B exists so
    config = TextConfig() if quantised else check_text_encoder(path, device="meta").config
    if SPIECE_KEY not in header.tensors:
        raise CheckpointError(
            f"{path} is a Gemma-2 without tokenizer: use a file that has it inside under the key {SPIECE_KEY}, "
            "such as gemma_2_2b_fp16.safetensors"
        )
    options = {f"{NAME}_class": SanaGemma, f"{NAME}_model_config": asdict(config)}
    clip = comfy.sd.load_clip([path], folder_paths.get_folder_paths("embeddings"), comfy.sd.CLIPType.LUMINA2, options)
    clip.tokenizer = SanaTokenizer(tokenizer_data={**clip.tokenizer.state_dict(), **_config_tensor(config)})
    return clip


def clip_target(state_dict: dict[str, Tensor], prefix: str) -> ClipTarget:
    """The text encoder of an all-in-one checkpoint, for the host's checkpoint loader. prefix: of its keys."""
    stated = state_dict.get(prefix + CONFIG_KEY)
    config = TextConfig() if stated is None else TextConfig(**json.loads(stated.numpy().tobytes()))
    found = llama_detect(state_dict, f"{prefix}{NAME}.transformer.")

    class SizedTextModel(SanaTextModel):
        def __init__(self, device="cpu", dtype=None, model_options: dict[str, Any] | None = None) -> None:
            options = {**(model_options or {}), f"{NAME}_model_config": asdict(config)}
            if "llama_quantization_metadata" in found:
                options["quantization_metadata"] = found["llama_quantization_metadata"]
            super().__init__(device, found.get("dtype_llama", dtype), options)

    return ClipTarget(SanaTokenizer, SizedTextModel)


def _config_tensor(config: TextConfig) -> dict[str, Tensor]:
    if config == TextConfig():
        return {}
    return {CONFIG_KEY: torch.tensor(list(json.dumps(asdict(config)).encode()), dtype=torch.uint8)}
