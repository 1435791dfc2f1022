"""What a state dict is, in which layout: the tensors of one network, under diffusers' names. No file name is ever
consulted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from ..errors import CheckpointError
from .key_maps import (
    AUTOENCODER_MIT,
    CONTROLNET_NVLABS,
    GUIDED_TIME_EMBED_NVLABS,
    TIME_EMBED_NVLABS,
    TRANSFORMER_NVLABS,
    KeyMap,
    foreign_key,
    rename,
)
from .kinds import describe

_TRANSFORMER = re.compile(
    r"(?P<prefix>(?:\w+\.)*?)(?:transformer_blocks\.\d+\.ff\.conv_inverted|blocks\.\d+\.mlp\.inverted_conv\.conv)\.(?:weight|bias)"
)
_CONTROLNET_OR_VIDEO = re.compile(
    r"controlnet_blocks\.|controlnet\.|transformer_blocks\.0\.ff\.conv_temp|blocks\.0\.mlp\.t_conv"
)
_CONTROLNET = re.compile(
    r"(?P<prefix>(?:\w+\.)*?)(?:controlnet_blocks\.\d+|controlnet\.\d+\.(?:before_proj|after_proj|copied_block)(?:\.\w+)*)\.\w+"
)
_COPIED_BLOCK = re.compile(
    r"transformer_blocks\.\d+\.ff\.conv_inverted\.\w+|controlnet\.\d+\.copied_block\.mlp\.inverted_conv\.conv\.\w+"
)
_AUTOENCODER = re.compile(r"(?P<prefix>(?:\w+\.)*?)(?:decoder\.up_blocks\.\d+\.\d+\.|decoder\.stages\.\d+\.op_list\.)")
_COMPANIONS = (
    "vae.",
    "first_stage_model.",
    "text_encoders.",
    "cond_stage_model.",
    "model.diffusion_model.",
)  # parts of an all-in-one file


@dataclass(frozen=True)
class Canonical:
    """Tensors of one network under diffusers' names, and what is needed to speak of them by the file's own names."""

    tensors: dict[str, Tensor]
    prefix: str
    key_map: KeyMap = ()

    def original_key(self, key: str) -> str:
        return self.prefix + foreign_key(key, self.key_map)


def canonical_transformer(tensors: Mapping[str, Tensor]) -> Canonical:
    """The SANA transformer in a state dict of any layout, under any prefix. Raises CheckpointError if there is none."""
    prefix = transformer_prefix(tensors)
    if prefix is None:
        raise CheckpointError(
            f"expected a SANA transformer, found {describe(tensors)}: choose the file of a SANA model"
        )
    own = _without_prefix(tensors, prefix)
    if not any(key.startswith("blocks.") for key in own):
        return Canonical(own, prefix)
    guided = any(key.startswith("cfg_embedder.") for key in own)
    key_map = TRANSFORMER_NVLABS + (GUIDED_TIME_EMBED_NVLABS if guided else TIME_EMBED_NVLABS)
    return Canonical(rename(own, key_map), prefix, key_map)


def transformer_prefix(keys: Iterable[str]) -> str | None:
    """What stands before the keys of the SANA transformer among `keys` ("" where nothing does), or None if there is
    none.
    """
    keys = list(keys)
    prefix = next((match["prefix"] for match in map(_TRANSFORMER.fullmatch, keys) if match), None)
    if prefix is None or any(_CONTROLNET_OR_VIDEO.match(key.removeprefix(prefix)) for key in keys):
        return None
    return prefix


def canonical_controlnet(tensors: Mapping[str, Tensor]) -> Canonical:
    """The SANA ControlNet in a state dict of either layout, under any prefix. Raises CheckpointError if there is none."""
    prefix = controlnet_prefix(tensors)
    if prefix is None:
        raise CheckpointError(
            f"expected a SANA ControlNet, found {describe(tensors)}: choose the file of a ControlNet for SANA"
        )
    own = _without_prefix(tensors, prefix)
    if not any(key.startswith("controlnet.") for key in own):
        return Canonical(own, prefix)
    return Canonical(rename(own, CONTROLNET_NVLABS), prefix, CONTROLNET_NVLABS)


def controlnet_prefix(keys: Iterable[str]) -> str | None:
    """What stands before the keys of the SANA ControlNet among `keys` ("" where nothing does), or None if there is
    none.
    """
    keys = list(keys)
    prefix = next((match["prefix"] for match in map(_CONTROLNET.fullmatch, keys) if match), None)
    if prefix is None or not any(_COPIED_BLOCK.fullmatch(key.removeprefix(prefix)) for key in keys):
        return None
    return prefix


def canonical_autoencoder(tensors: Mapping[str, Tensor]) -> Canonical:
    """The DC-AE in a state dict, in MIT's or diffusers' naming, under any prefix. Raises CheckpointError if there is
    none.
    """
    prefix = next((match["prefix"] for match in map(_AUTOENCODER.match, tensors) if match), None)
    if prefix is None:
        raise CheckpointError(
            f"expected the DC-AE autoencoder of SANA, found {describe(tensors)}: choose a dc-ae-f32c32-sana file"
        )
    own = _without_prefix(tensors, prefix)
    if not any(key.startswith("decoder.stages.") for key in own):
        return Canonical(own, prefix)
    return Canonical(rename(own, AUTOENCODER_MIT), prefix, AUTOENCODER_MIT)


def _without_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The keys under `prefix`, and all keys that belong to no other part of an all-in-one file: the strict load names
    those.
    """
    companions = tuple(companion for companion in _COMPANIONS if companion != prefix)
    return {
        key.removeprefix(prefix): tensor
        for key, tensor in tensors.items()
        if not (prefix and key.startswith(companions))
    }
