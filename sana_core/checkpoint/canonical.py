"""Find the tensors of one network in a state dict of any layout, and put them under diffusers' names. No file name is
ever consulted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

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
from .wrappers import is_extra, unwrapped, unwrapped_key

_TRANSFORMER = re.compile(
    r"(?P<prefix>(?:\w+\.)*?)"
    r"(?:transformer_blocks\.[0-9]+\.ff\.conv_inverted|blocks\.[0-9]+\.mlp\.inverted_conv\.conv)\.(?:weight|bias)"
)
_CONTROLNET_OR_VIDEO = re.compile(
    r"controlnet_blocks\.|controlnet\.|transformer_blocks\.0\.ff\.conv_temp|blocks\.0\.mlp\.t_conv"
)
_CONTROLNET = re.compile(
    r"(?P<prefix>(?:\w+\.)*?)"
    r"(?:controlnet_blocks\.[0-9]+|controlnet\.[0-9]+\.(?:before_proj|after_proj|copied_block)(?:\.\w+)*)\.\w+"
)
_COPIED_BLOCK = re.compile(
    r"transformer_blocks\.[0-9]+\.ff\.conv_inverted\.\w+|controlnet\.[0-9]+\.copied_block\.mlp\.inverted_conv\.conv\.\w+"
)
_AUTOENCODER = re.compile(
    r"(?P<prefix>(?:\w+\.)*?)(?:decoder\.up_blocks\.[0-9]+\.[0-9]+\.|decoder\.stages\.[0-9]+\.op_list\.)"
)
# Parts of an all-in-one file.
_COMPANIONS = (
    "vae.",
    "first_stage_model.",
    "text_encoders.",
    "cond_stage_model.",
    "model.diffusion_model.",
    "model_ema.",
)


@dataclass(frozen=True)
class Canonical:
    """Tensors of one network under diffusers' names, and what is needed to speak of them by the file's own names.

    prefix: what stood before the names.  key_map: the table that translated them.  wrapped: the file's name of each
    tensor whose name had wrappers of a training tool in it.
    """

    tensors: dict[str, Tensor]
    prefix: str
    key_map: KeyMap = ()
    wrapped: dict[str, str] = field(default_factory=dict)

    def original_key(self, key: str) -> str:
        original = self.prefix + foreign_key(key, self.key_map)
        return self.wrapped.get(original, original)


def canonical_transformer(tensors: Mapping[str, Tensor]) -> Canonical:
    """The SANA transformer in a state dict of any layout, under any prefix. Raises CheckpointError if there is none."""
    tensors, wrapped = unwrapped(tensors)
    prefix = transformer_prefix(tensors)
    if prefix is None:
        raise CheckpointError(
            f"expected a SANA transformer, found {describe(tensors)}: choose the file of a SANA model"
        )
    own = _without_prefix(tensors, prefix)
    if not any(key.startswith("blocks.") for key in own):
        return Canonical(own, prefix, wrapped=wrapped)
    guided = any(key.startswith("cfg_embedder.") for key in own)
    key_map = TRANSFORMER_NVLABS + (GUIDED_TIME_EMBED_NVLABS if guided else TIME_EMBED_NVLABS)
    return Canonical(rename(own, key_map), prefix, key_map, wrapped)


def transformer_prefix(keys: Iterable[str]) -> str | None:
    """What stands before the keys of the SANA transformer among `keys`, without wrappers of training tools ("" where
    nothing does), or None if there is none.
    """
    keys = [unwrapped_key(key) for key in keys]
    prefix = next((match["prefix"] for match in map(_TRANSFORMER.fullmatch, keys) if match), None)
    if prefix is None or any(_CONTROLNET_OR_VIDEO.match(key.removeprefix(prefix)) for key in keys):
        return None
    return prefix


def canonical_controlnet(tensors: Mapping[str, Tensor]) -> Canonical:
    """The SANA ControlNet in a state dict of either layout, under any prefix. Raises CheckpointError otherwise."""
    tensors, wrapped = unwrapped(tensors)
    prefix = controlnet_prefix(tensors)
    if prefix is None:
        raise CheckpointError(
            f"expected a SANA ControlNet, found {describe(tensors)}: choose the file of a ControlNet for SANA"
        )
    own = _without_prefix(tensors, prefix)
    if not any(key.startswith("controlnet.") for key in own):
        return Canonical(own, prefix, wrapped=wrapped)
    return Canonical(rename(own, CONTROLNET_NVLABS), prefix, CONTROLNET_NVLABS, wrapped)


def controlnet_prefix(keys: Iterable[str]) -> str | None:
    """What stands before the keys of the SANA ControlNet among `keys`, without wrappers of training tools ("" where
    nothing does), or None if there is none.
    """
    keys = [unwrapped_key(key) for key in keys]
    prefix = next((match["prefix"] for match in map(_CONTROLNET.fullmatch, keys) if match), None)
    if prefix is None or not any(_COPIED_BLOCK.fullmatch(key.removeprefix(prefix)) for key in keys):
        return None
    return prefix


def canonical_autoencoder(tensors: Mapping[str, Tensor]) -> Canonical:
    """The DC-AE in a state dict, in MIT's or diffusers' naming, under any prefix. Raises CheckpointError if there is
    none.
    """
    tensors, wrapped = unwrapped(tensors)
    prefix = next((match["prefix"] for match in map(_AUTOENCODER.match, tensors) if match), None)
    if prefix is None:
        raise CheckpointError(
            f"expected the DC-AE autoencoder of SANA, found {describe(tensors)}: choose a dc-ae-f32c32-sana file"
        )
    own = _without_prefix(tensors, prefix)
    if not any(key.startswith("decoder.stages.") for key in own):
        return Canonical(own, prefix, wrapped=wrapped)
    return Canonical(rename(own, AUTOENCODER_MIT), prefix, AUTOENCODER_MIT, wrapped)


def _without_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The keys under `prefix`, and the keys that belong to no other part of an all-in-one file: a strict load names
    those. What tools add and no network uses is left out.
    """
    companions = tuple(companion for companion in _COMPANIONS if companion != prefix)
    return {
        key.removeprefix(prefix): tensor
        for key, tensor in tensors.items()
        if not (prefix and key.startswith(companions)) and not is_extra(key)
    }
