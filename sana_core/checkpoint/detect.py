"""Which configuration the shapes of a canonical state dict tell, and what its file says of itself. No file name is ever
consulted.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from statistics import mode

from torch import Tensor

from ..config import (
    LINEAR_HEAD_DIM,
    NATIVE_SIZES,
    POSITIONS,
    AutoencoderConfig,
    PositionConfig,
    StageConfig,
    TransformerConfig,
    cross_heads,
)
from ..errors import CheckpointError
from ..geometry import DC_AE_F32
from ..precision import precision_words, trained_in_fp16
from ..presets import network_name


def transformer_config(
    tensors: Mapping[str, Tensor],
    *,
    source: Mapping[str, Tensor] | None = None,
    stated: Mapping | None = None,
    variant: str | None = None,
    trained_precision: str | None = None,
) -> TransformerConfig:
    """Configuration of a canonical state dict.

    source: the state dict before renaming, where the length of `pos_embed` tells the position class.  stated: what the
    file or its folder says of itself, which wins.  variant: "512", "1024", "2k" or "4k", which wins for the position
    class.  trained_precision: "float16" or "bfloat16", which wins for that; None: decided as `precision.py` says.
    Raises CheckpointError, InputError, KeyError.
    """
    return detect_transformer(
        tensors, source=source, stated=stated, variant=variant, trained_precision=trained_precision
    )[0]


def detect_transformer(
    tensors: Mapping[str, Tensor],
    *,
    source: Mapping[str, Tensor] | None = None,
    stated: Mapping | None = None,
    variant: str | None = None,
    trained_precision: str | None = None,
) -> tuple[TransformerConfig, str]:
    """`transformer_config`, and one line for the log: what it is, and by what that was decided which the weights do not
    tell.
    """
    source, stated = source or {}, stated or {}
    places = (
        ("caption_norm.weight", 0),
        ("patch_embed.proj.weight", 0),
        ("scale_shift_table", 1),
        ("proj_out.weight", 1),
    )
    hidden = mode(tensors[key].shape[axis] for key, axis in places if key in tensors and tensors[key].ndim > axis)
    position, size_words = _position(source, stated, variant)
    config = TransformerConfig(
        hidden_size=hidden,
        depth=1 + max(int(key.split(".")[1]) for key in tensors if key.startswith("transformer_blocks.")),
        num_heads=hidden // LINEAR_HEAD_DIM,
        num_cross_heads=stated.get("num_cross_attention_heads") or cross_heads(hidden),  # diffusers' config.json
        ffn_size=mode(tensor.shape[0] for key, tensor in tensors.items() if key.endswith("ff.conv_inverted.bias")) // 2,
        caption_channels=tensors["caption_projection.linear_1.weight"].shape[-1],
        qk_norm=any(key.endswith("attn1.norm_q.weight") for key in tensors),
        guidance_embed=any(key.startswith("time_embed.guidance_embedder.") for key in tensors),
        position=position,
    )
    if "hidden_size" in stated:  # not in diffusers' terms, but in ours
        names = {field.name for field in dataclasses.fields(config)} - {"position"}
        config = dataclasses.replace(config, **{name: stated[name] for name in names if name in stated})
    fp16_trained, reason = trained_in_fp16(
        config,
        tensors["patch_embed.proj.weight"].dtype,
        native_size=native_size(source, stated, variant),
        chosen=trained_precision,
        stated=stated.get("fp16_trained"),
    )
    config = dataclasses.replace(config, fp16_trained=fp16_trained)
    return config, f"{network_name(config)}, {size_words}, {precision_words(config, reason)}"


def controlnet_config(tensors: Mapping[str, Tensor], stated: Mapping | None = None) -> TransformerConfig:
    """Configuration of a canonical ControlNet: its depth is the number of copied blocks.

    Its clamp is on, which does nothing to models trained without it.  stated: the folder's config.json.  Raises
    CheckpointError, KeyError.
    """
    stated = stated or {}
    hidden = mode(
        tensor.shape[0]
        for key, tensor in tensors.items()
        if re.fullmatch(r"(input_block|controlnet_blocks\.\d+)\.bias", key)
    )
    caption = tensors.get("caption_projection.linear_1.weight")
    config = TransformerConfig(
        hidden_size=hidden,
        depth=1 + max(int(key.split(".")[1]) for key in tensors if key.startswith("transformer_blocks.")),
        num_heads=hidden // LINEAR_HEAD_DIM,
        num_cross_heads=stated.get("num_cross_attention_heads") or cross_heads(hidden),
        ffn_size=mode(tensor.shape[0] for key, tensor in tensors.items() if key.endswith("ff.conv_inverted.bias")) // 2,
        qk_norm=any(key.endswith("attn1.norm_q.weight") for key in tensors),
        position=_position({}, stated, None)[0],
        fp16_trained=None,
    )
    return config if caption is None else dataclasses.replace(config, caption_channels=caption.shape[-1])


def has_embedders(tensors: Mapping[str, Tensor]) -> bool:
    """Does a canonical ControlNet bring embedders of its own?"""
    return any(key.startswith(("patch_embed.", "time_embed.", "caption_")) for key in tensors)


def native_size(source: Mapping[str, Tensor], stated: Mapping, variant: str | None = None) -> int | None:
    """Side in pixels of the square pictures a model was trained on: from `variant`, its folder's config or the length
    of `pos_embed`.
    """
    if variant is not None:
        return NATIVE_SIZES.get(variant)
    sample_size = stated.get("sample_size")
    cells = sample_size if isinstance(sample_size, int) else math.isqrt(_position_tokens(source))
    return cells * DC_AE_F32.downscale or None


def _position_tokens(source: Mapping[str, Tensor]) -> int:
    return next(
        (tensor.shape[1] for key, tensor in source.items() if key.endswith("pos_embed") and tensor.ndim == 3), 0
    )


def _position(source: Mapping[str, Tensor], stated: Mapping, variant: str | None) -> tuple[PositionConfig | None, str]:
    """The position table, and the picture size with what tells it."""
    if variant is not None:
        if variant not in POSITIONS:
            raise CheckpointError(f'unknown variant "{variant}", expected one of {", ".join(POSITIONS)}')
        return POSITIONS[variant], f"{NATIVE_SIZES[variant]} px (as chosen)"
    size = native_size(source, stated)
    if stated.get("position"):
        return PositionConfig(**stated["position"]), "position table as its file states"
    if stated.get("interpolation_scale") is not None:  # diffusers' config.json
        position = PositionConfig(base_size=stated["sample_size"], interpolation=float(stated["interpolation_scale"]))
        return position, f"{size} px (by its config.json)"
    tokens = _position_tokens(source)
    if tokens:
        table = next(
            (position for position in POSITIONS.values() if position and position.base_size**2 == tokens), None
        )
        return table, f"{size} px (by the length of its pos_embed)"
    if size or "hidden_size" in stated:
        return None, f"{size} px (by its config.json)" if size else "no position table, as its file states"
    return None, "taken for 512 or 1024 px, as the file does not tell (choose 2k or 4k for those)"


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
    samplers = {key.split(".")[0] for key in stage if re.fullmatch(r"\d+\.conv\.(weight|bias)", key)}
    outputs = re.compile(r"\d+\.(conv1\.bias|conv2\.weight|norm\.weight|attn\.norm_out\.\w+|conv_out\.norm\.\w+)")
    return StageConfig(
        channels=mode(tensor.shape[0] for key, tensor in stage.items() if outputs.fullmatch(key)),
        depth=len({key.split(".")[0] for key in stage} - samplers),
        block="vit" if any(".attn." in key for key in stage) else "res",
    )


def stated_config(metadata: Mapping[str, str], config: Mapping | None = None) -> Mapping:
    """What a file says of itself: the JSON under `config` in its safetensors metadata, else its folder's config.json,
    else nothing.
    """
    try:
        stated = json.loads(metadata["config"])
    except (KeyError, ValueError):
        stated = None
    return stated if isinstance(stated, dict) else config or {}
