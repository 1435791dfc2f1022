"""Which network a canonical state dict is of, from its shapes and what its file says of itself. No file name is ever
consulted.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import mode
from typing import Any

import torch
from torch import Tensor

from ..config import (
    LARGEST_DEPTH,
    LARGEST_SIZE,
    LINEAR_HEAD_DIM,
    NATIVE_SIZES,
    POSITIONS,
    AutoencoderConfig,
    PositionConfig,
    SamplingDefaults,
    StageConfig,
    TransformerConfig,
    cross_heads,
)
from ..errors import CheckpointError, listed
from ..geometry import DC_AE_F32
from ..precision import precision_words, trained_in_fp16
from ..presets import network_name, sampling_defaults
from ..quantised.formats import GGUF
from .numbers import read_number
from .statements import stated_config, with_stated_sampling
from .weights import logical_shapes, quantised_layers

_WHOLE = ("hidden_size", "depth", "num_heads", "num_cross_heads", "ffn_size", "caption_channels", "latent_channels")
_TRUTH = ("qk_norm", "guidance_embed", "fp16_trained")
Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Detected:
    """What is known of a SANA transformer from its file.

    native_size: side in pixels of the square pictures it was trained on; None: the file does not tell.  sampling: how
    it was released to be sampled.  words: one line for the log: what it is and what that was decided by.
    """

    config: TransformerConfig
    native_size: int | None
    sampling: SamplingDefaults
    words: str


def detect(
    tensors: Mapping[str, Tensor],
    *,
    source: Mapping[str, Tensor] | None = None,
    metadata: Mapping[str, str] | None = None,
    folder_config: Mapping[str, Any] | None = None,
    variant: str | None = None,
    trained_precision: str | None = None,
) -> Detected:
    """What a canonical state dict of a transformer is.

    source: the state dict before renaming, where the length of `pos_embed` tells the position class.  metadata: of the
    safetensors file, folder_config: the config.json of its folder; what they state wins over the shapes.  variant:
    "512", "1024", "2k" or "4k", which wins for the position class.  trained_precision: "float16" or "bfloat16", which
    wins for that; None: decided as `precision.py` says.  Raises CheckpointError, InputError; KeyError for a missing
    tensor.
    """
    source = source or {}
    stated = stated_config(metadata or {}, folder_config)
    size = native_size(source, stated, variant)
    position, size_words = _position(source, stated, variant, size)
    config = _stated_fields(dataclasses.replace(_config_of_shapes(tensors, stated), position=position), stated)
    own_depth = block_count(tensors)
    if config.depth != own_depth:
        raise CheckpointError(f"it states a depth of {config.depth}, but its tensors are of {own_depth} blocks")
    fp16_trained, reason = trained_in_fp16(
        config,
        stored_type(tensors),
        native_size=size,
        chosen=trained_precision,
        stated=stated.get("fp16_trained"),
    )
    config = dataclasses.replace(config, fp16_trained=fp16_trained)
    return Detected(
        config=config,
        native_size=size,
        sampling=with_stated_sampling(sampling_defaults(config, size), metadata or {}),
        words=f"{network_name(config)}, {size_words}, {precision_words(config, reason)}",
    )


def stored_type(tensors: Mapping[str, Tensor]) -> torch.dtype:
    """The number type of a canonical state dict. Tools for GGUF store small tensors in any type, whatever the model was
    trained in: float32 then, which says nothing.
    """
    if any(form.name.startswith(GGUF) for form in quantised_layers(tensors).values()):
        return torch.float32
    return tensors["patch_embed.proj.weight"].dtype


def controlnet_config(tensors: Mapping[str, Tensor], stated: Mapping | None = None) -> TransformerConfig:
    """Configuration of a canonical ControlNet: its depth is the number of copied blocks.

    Its clamp is on, which does nothing to models trained without it.  stated: the folder's config.json.  Raises
    CheckpointError; KeyError for a missing tensor.
    """
    stated = {name: value for name, value in (stated or {}).items() if value is not None}
    shapes = logical_shapes(tensors, quantised_layers(tensors))
    hidden = mode(
        shape[0]
        for key, shape in shapes.items()
        if re.fullmatch(r"(input_block|controlnet_blocks\.[0-9]+)\.bias", key) and shape
    )
    position = _position({}, stated, None, native_size({}, stated))[0]
    caption = shapes.get("caption_projection.linear_1.weight")
    config = dataclasses.replace(_config(shapes, hidden, stated), position=position, fp16_trained=None)
    return dataclasses.replace(config, caption_channels=caption[-1]) if caption else config


def has_embedders(tensors: Mapping[str, Tensor]) -> bool:
    """Does a canonical ControlNet bring embedders of its own?"""
    return any(key.startswith(("patch_embed.", "time_embed.", "caption_")) for key in tensors)


def block_count(keys: Iterable[str], name: str = "transformer_blocks") -> int:
    """How many blocks of this name a network has. Raises CheckpointError unless they are numbered 0, 1, 2 and so on."""
    pattern = re.compile(rf"{name}\.([0-9]+)\.")
    found = {match[1] for match in map(pattern.match, keys) if match}
    wrong = sorted(found - {str(number) for number in range(len(found))}, key=len)
    if wrong:
        raise CheckpointError(
            f"it has {len(found)} blocks, expected {name}.0 to {name}.{len(found) - 1}, found "
            f"{listed([f'{name}.{number}' for number in wrong])}: the file is damaged or of another model"
        )
    return len(found)


def _config_of_shapes(tensors: Mapping[str, Tensor], stated: Mapping) -> TransformerConfig:
    shapes = logical_shapes(tensors, quantised_layers(tensors))
    places = (
        ("caption_norm.weight", 0),
        ("patch_embed.proj.weight", 0),
        ("scale_shift_table", 1),
        ("proj_out.weight", 1),
    )
    hidden = mode(shapes[key][axis] for key, axis in places if len(shapes.get(key, ())) > axis)
    return dataclasses.replace(
        _config(shapes, hidden, stated), caption_channels=shapes["caption_projection.linear_1.weight"][-1]
    )


def _config(shapes: Mapping[str, Shape], hidden: int, stated: Mapping) -> TransformerConfig:
    """What the blocks show, of a transformer or a ControlNet."""
    heads = stated.get("num_cross_attention_heads")  # diffusers' config.json
    return TransformerConfig(
        hidden_size=hidden,
        depth=block_count(shapes),
        num_heads=hidden // LINEAR_HEAD_DIM,
        num_cross_heads=cross_heads(hidden) if heads is None else _whole("num_cross_attention_heads", heads),
        ffn_size=mode(shape[0] for key, shape in shapes.items() if key.endswith("ff.conv_inverted.bias")) // 2,
        qk_norm=any(key.endswith("attn1.norm_q.weight") for key in shapes),
        guidance_embed=any(key.startswith("time_embed.guidance_embedder.") for key in shapes),
    )


def _stated_fields(config: TransformerConfig, stated: Mapping) -> TransformerConfig:
    """`config` with what a file says in our own terms; diffusers' config.json does not know `hidden_size`."""
    if "hidden_size" not in stated:
        return config
    whole = {name: _whole(name, stated[name]) for name in _WHOLE if name in stated}
    return dataclasses.replace(config, **whole, **{name: stated[name] for name in _TRUTH if name in stated})


def _whole(name: str, value: object) -> int:
    return read_number(name, value, whole=True, least=1, most=LARGEST_SIZE)


def native_size(source: Mapping[str, Tensor], stated: Mapping, variant: str | None = None) -> int | None:
    """Side in pixels of the square pictures a model was trained on: from `variant`, its folder's config or the length
    of `pos_embed`; None where nothing tells.
    """
    if variant is not None:
        return NATIVE_SIZES.get(variant)
    sample_size = stated.get("sample_size")
    cells = math.isqrt(_position_tokens(source)) if sample_size is None else _whole("sample_size", sample_size)
    return cells * DC_AE_F32.downscale or None


def _position_tokens(source: Mapping[str, Tensor]) -> int:
    return next(
        (tensor.shape[1] for key, tensor in source.items() if key.endswith("pos_embed") and tensor.ndim == 3), 0
    )


def _position(
    source: Mapping[str, Tensor], stated: Mapping, variant: str | None, size: int | None
) -> tuple[PositionConfig | None, str]:
    """The position table, and the picture size with what tells it."""
    if variant is not None:
        if variant not in POSITIONS:
            raise CheckpointError(f'unknown variant "{variant}", expected one of {", ".join(POSITIONS)}')
        return POSITIONS[variant], f"{size} px (as chosen)"
    if stated.get("position"):
        return _stated_position(stated["position"]), "position table as its file states"
    if "interpolation_scale" in stated:  # diffusers' config.json
        base = {"base_size": stated.get("sample_size"), "interpolation": stated["interpolation_scale"]}
        return _stated_position(base), f"{size} px (by its config.json)"
    tokens = _position_tokens(source)
    if tokens:
        table = next(
            (position for position in POSITIONS.values() if position and position.base_size**2 == tokens), None
        )
        return table, f"{size} px (by the length of its pos_embed)"
    if size or "hidden_size" in stated:
        return None, f"{size} px (by its config.json)" if size else "no position table, as its file states"
    return None, "taken for 512 or 1024 px, as the file does not tell (choose 2k or 4k for those)"


def _stated_position(stated: Any) -> PositionConfig:
    if not isinstance(stated, dict) or not {"base_size", "interpolation"} <= stated.keys():
        raise CheckpointError(f"it states position = {stated!r}, expected an object with base_size and interpolation")
    interpolation = read_number("interpolation", stated["interpolation"], least=1e-6, most=LARGEST_SIZE)
    return PositionConfig(base_size=_whole("base_size", stated["base_size"]), interpolation=interpolation)


def autoencoder_config(tensors: Mapping[str, Tensor]) -> AutoencoderConfig:
    """Configuration of a canonical DC-AE state dict. Raises CheckpointError for DC-AE builds whose latents SANA does
    not know.
    """
    if "encoder.conv_in.conv.weight" in tensors or any(key.endswith("running_mean") for key in tensors):
        remedy = "use dc-ae-f32c32-sana-1.0 or 1.1, or its Lite"
        raise CheckpointError(f"this DC-AE build (in-1.0 or mix-1.0) has other latents than SANA: {remedy}")
    return AutoencoderConfig(
        encoder=tuple(_stage(tensors, f"encoder.down_blocks.{index}.") for index in range(6)),
        decoder=tuple(_stage(tensors, f"decoder.up_blocks.{index}.") for index in range(6)),
        lite=any(key.startswith("decoder.conv_out.conv.") for key in tensors),
    )


def _stage(tensors: Mapping[str, Tensor], prefix: str) -> StageConfig:
    stage = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    if not stage:
        return StageConfig(channels=tensors["decoder.norm_out.weight"].shape[0], depth=0, block="res")
    samplers = {key.split(".")[0] for key in stage if re.fullmatch(r"[0-9]+\.conv\.(weight|bias)", key)}
    outputs = re.compile(r"[0-9]+\.(conv1\.bias|conv2\.weight|norm\.weight|attn\.norm_out\.\w+|conv_out\.norm\.\w+)")
    channels = mode(tensor.shape[0] for key, tensor in stage.items() if outputs.fullmatch(key) and tensor.ndim)
    depth = len({key.split(".")[0] for key in stage} - samplers)
    if not 1 <= channels <= LARGEST_SIZE or depth > LARGEST_DEPTH:
        raise CheckpointError(f"{prefix.rstrip('.')} has {depth} blocks of {channels} channels: the file is damaged")
    return StageConfig(channels=channels, depth=depth, block="vit" if any(".attn." in key for key in stage) else "res")
