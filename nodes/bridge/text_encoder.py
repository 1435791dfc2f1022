"""Gemma-2 as ComfyUI's CLIP: its loader, and the text encoder of an all-in-one checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import comfy.sd
import comfy.utils
import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from comfy.supported_models_base import ClipTarget
from comfy.text_encoders.hunyuan_video import llama_detect
from torch import Tensor

from ...sana_core.checkpoint.files import Checkpoint
from ...sana_core.checkpoint.fit import check_fit, naming
from ...sana_core.checkpoint.read_json import json_tensor
from ...sana_core.config import TextConfig
from ...sana_core.errors import CheckpointError
from ...sana_core.text.detect import GEMMA_CONFIG_KEY, SPIECE_KEY, GemmaTensors, gemma2_tensors, text_config
from ...sana_core.text.gemma import build_gemma2
from .detection import check_formats
from .gemma import HAS_GGUF, SanaGemma, SanaTextModel
from .gguf import has_gguf
from .reading import read_model
from .tokenizer import NAME, SanaTokenizer

TOKENIZER_FILE = "tokenizer.model"


def load_text_encoder(path: str, disable_dynamic: bool = False) -> comfy.sd.CLIP:
    """Gemma-2 with its tokenizer from one file, as the host's CLIP. The file is Gemma's own, or a checkpoint that the
    host has saved. disable_dynamic: as in `load_model`. Raises CheckpointError.
    """
    checkpoint = read_model(path)
    tensors, metadata = comfy.utils.convert_old_quants(checkpoint.tensors, metadata=checkpoint.metadata)
    with naming(path):
        found = with_tokenizer(gemma2_tensors(tensors), Path(path))
        config = checked_config(found, Checkpoint(tensors, path, metadata, checkpoint.config))
        tokenizer = matching_tokenizer(found, config)
    single = {**{f"model.{key}": tensor for key, tensor in found.tensors.items()}, SPIECE_KEY: found.spiece}
    options = {
        f"{NAME}_class": SanaGemma,
        f"{NAME}_model_config": asdict(config),
        HAS_GGUF: has_gguf(found.tensors),
    }
    embeddings = folder_paths.get_folder_paths("embeddings")
    clip = comfy.sd.load_text_encoder_state_dicts(
        [single], embeddings, comfy.sd.CLIPType.LUMINA2, options, disable_dynamic
    )
    clip.tokenizer = tokenizer
    clip.patcher.cached_patcher_init = (load_text_encoder_patcher, (path,))
    return clip


def load_text_encoder_patcher(path: str, disable_dynamic: bool = False) -> ModelPatcher:
    """A fresh patcher from the same file, for the host's copies."""
    return load_text_encoder(path, disable_dynamic).patcher


def checked_config(found: GemmaTensors, checkpoint: Checkpoint) -> TextConfig:
    """Configuration of a Gemma-2, quantised or not. Raises CheckpointError unless its tensors are those of such a
    network.
    """
    config = text_config(checkpoint, found)
    check_formats(found.canonical)
    check_fit(found.tensors, build_gemma2(config).state_dict(), found.canonical)
    return config


def with_tokenizer(found: GemmaTensors, path: Path) -> GemmaTensors:
    """The same; one without tokenizer gets the tokenizer.model beside its file, as in a folder of Hugging Face."""
    beside = path.with_name(TOKENIZER_FILE)
    if found.spiece is not None or not beside.is_file():
        return found
    return replace(found, spiece=torch.frombuffer(bytearray(beside.read_bytes()), dtype=torch.uint8))


def matching_tokenizer(found: GemmaTensors, config: TextConfig) -> SanaTokenizer:
    """The tokenizer beside a Gemma-2. Raises CheckpointError if there is none, or that of another model."""
    if found.spiece is None:
        raise CheckpointError(
            "it is a Gemma-2 without tokenizer: put its tokenizer.model beside it, or use a file that has it inside "
            f"under the key {SPIECE_KEY}, such as gemma_2_2b_fp16.safetensors"
        )
    tokenizer = SanaTokenizer(tokenizer_data={SPIECE_KEY: found.spiece, **config_tensor(config)})
    if tokenizer.pieces.size != config.vocab_size:
        raise CheckpointError(
            f"its text encoder knows {config.vocab_size} tokens, its tokenizer {tokenizer.pieces.size}: they belong to "
            "different models, use gemma_2_2b_fp16.safetensors"
        )
    return tokenizer


def clip_target(state_dict: Mapping[str, Tensor], prefix: str) -> ClipTarget:
    """The text encoder of an all-in-one checkpoint, for the host's checkpoint loader. prefix: of its keys. A checkpoint
    may have none. Raises CheckpointError.
    """
    own = {key: tensor for key, tensor in state_dict.items() if key.startswith(prefix)}
    config = TextConfig()
    if own:
        with naming("the text encoder of this checkpoint"):
            config = checked_config(gemma2_tensors(own), Checkpoint(own, ""))
    gguf = has_gguf(own)
    quantised = llama_detect(own, f"{prefix}{NAME}.transformer.")

    class SizedTextModel(SanaTextModel):
        def __init__(self, device="cpu", dtype=None, model_options: dict[str, Any] | None = None) -> None:
            options = {**(model_options or {}), f"{NAME}_model_config": asdict(config), HAS_GGUF: gguf}
            if "llama_quantization_metadata" in quantised:
                options["quantization_metadata"] = quantised["llama_quantization_metadata"]
            super().__init__(device, quantised.get("dtype_llama", dtype), options)

    return ClipTarget(SanaTokenizer, SizedTextModel)


def config_tensor(config: TextConfig) -> dict[str, Tensor]:
    """What has to be saved beside the tokenizer; nothing for Gemma-2-2B."""
    if config == TextConfig():
        return {}
    return {GEMMA_CONFIG_KEY: json_tensor(asdict(config))}
