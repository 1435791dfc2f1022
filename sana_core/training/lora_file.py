"""The file of a trained LoRA: written in the dialect of diffusers and PEFT, and read again to go on.

alpha / rank is multiplied into lora_B, and the configuration says alpha = rank. It is the one way that all read alike:
ComfyUI without this pack and diffusers before 0.35 read no configuration, and diffusers refuses a SANA LoRA with keys
that end in `.alpha`. `ss_network_alpha` says with which alpha the LoRA was trained.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoint.new_file import new_file
from ..checkpoint.safetensors_stream import SafetensorsWriter
from ..errors import CheckpointError, InputError, listed
from ..lora.file import load_lora
from ..lora.names import DOTTED
from ..lora.peft import METADATA_KEY
from .lora_layers import PREFIX, TrainedLora

ROLES = {"down": "lora_A.weight", "up": "lora_B.weight", "magnitude": "lora_magnitude_vector"}
_PREFIXES = sorted(DOTTED, key=len, reverse=True)  # the last one is the empty one


def save_lora(
    path: Path,
    lora: TrainedLora,
    *,
    base: str,
    trained: Mapping[str, str] | None = None,
    tensors: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype = torch.float32,
    overwrite: bool = False,
) -> None:
    """Write a LoRA as safetensors, whole or not at all.

    base: the model it was trained on, in words.  trained: further metadata under the names that other tools show, such
    as `ss_steps`, `ss_training_comment`, `ss_tag_frequency` (JSON), `modelspec.title`, `modelspec.date`,
    `modelspec.trigger_phrase`. The title is else the file's name, the date now.  tensors: as of `lora.tensors()`, where
    they have been gathered already.  Raises InputError if the file cannot
    be written.
    """
    if path.suffix.lower() != ".safetensors":
        raise InputError(f"{path}: a LoRA is a .safetensors file: name it so")
    tensors = lora.tensors() if tensors is None else tensors
    with new_file(path, overwrite=overwrite) as partial:
        metadata = _metadata(path, lora, base, trained or {})
        with SafetensorsWriter(partial, tensors=len(tensors), metadata=metadata) as writer:
            for key, tensor in tensors.items():
                writer.add(key, tensor, dtype)


def _metadata(path: Path, lora: TrainedLora, base: str, trained: Mapping[str, str]) -> dict[str, str]:
    config = {
        "peft_type": "LORA",
        "r": lora.rank,
        "lora_alpha": lora.rank,
        "target_modules": list(lora.targets),
        "use_dora": lora.dora,
    }
    return {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "sana/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": path.stem,
        "modelspec.date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **trained,
        "ss_base_model_version": base,
        "ss_network_dim": str(lora.rank),
        "ss_network_alpha": f"{lora.alpha:g}",
        METADATA_KEY: json.dumps({f"{PREFIX}{key}": value for key, value in config.items()}),
    }


def load_trained(path: Path) -> dict[str, Tensor]:
    """The tensors of a LoRA or DoRA to go on from, for `attach_lora(start=...)`, as `TrainedLora.tensors` returns them.

    Files of other programs will do too, if they name the layers as diffusers does. Raises CheckpointError for a file
    that cannot be read or holds more than such a LoRA.
    """
    lora = load_lora(path)
    if lora.unknown:
        raise CheckpointError(f"{path} holds more than a LoRA ({listed(lora.unknown)}): training cannot go on from it")
    found: dict[str, Tensor] = {}
    for name, factors in lora.modules.items():
        if not factors.tensors.keys() <= ROLES.keys():
            raise CheckpointError(f"{path}: {name} is a {factors.kind} that is not trained here: choose a LoRA or DoRA")
        module = next(name.removeprefix(prefix) for prefix in _PREFIXES if name.startswith(prefix))
        for role, tensor in factors.tensors.items():
            tensor = tensor.float()
            found[f"{PREFIX}{module}.{ROLES[role]}"] = factors.scale * tensor if role == "up" else tensor
    return found
