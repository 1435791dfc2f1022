"""The same networks in diffusers and transformers, filled from the same files.

Their names are canonical here, so any layout fills them. Quantised weights become the numbers that they stand for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoint.canonical import Canonical, canonical_autoencoder, canonical_controlnet, canonical_transformer
from ..checkpoint.detect import autoencoder_config, controlnet_config
from ..checkpoint.files import Checkpoint, component_folder, read_checkpoint
from ..checkpoint.fit import fitted
from ..checkpoint.statements import stated_config
from ..checkpoint.weights import marked, quantised_layers
from ..config import AutoencoderConfig, StageConfig, TextConfig, TransformerConfig
from ..errors import CheckpointError, listed
from ..quantised.layers import QuantisedWeight
from ..text.detect import gemma2_tensors, text_config
from .setup import Setup

FLOAT16_MAX = torch.finfo(torch.float16).max
BLOCKS = {"res": "ResBlock", "vit": "EfficientViTBlock"}  # diffusers' names
EMBEDDERS = ("patch_embed.", "time_embed.", "caption_projection.", "caption_norm.")


def transformer(setup: Setup, place: torch.device, dtype: torch.dtype) -> Any:
    """diffusers' SanaTransformer2DModel."""
    from diffusers.models.transformers.sana_transformer import SanaTransformer2DModel

    config = setup.config
    settings = {
        "qk_norm": "rms_norm_across_heads" if config.qk_norm else None,
        "guidance_embeds": config.guidance_embed,
        "guidance_embeds_scale": 0.1,
    }
    with torch.device("meta"):
        model = SanaTransformer2DModel(**_sizes(config), **settings)
    return _finished(model, _transformer_tensors(setup).tensors, config, place, dtype)


def controlnet(setup: Setup, place: torch.device, dtype: torch.dtype) -> Any:
    """diffusers' SanaControlNetModel. Where its file has no embedders, the transformer's are put in."""
    from diffusers.models.controlnets.controlnet_sana import SanaControlNetModel

    assert setup.controlnet is not None
    checkpoint = _read(setup.controlnet, "controlnet")
    tensors = canonical_controlnet(marked(checkpoint.tensors, checkpoint.metadata)).tensors
    config = controlnet_config(tensors, stated_config(checkpoint.metadata, checkpoint.config))
    if not any(key.startswith(EMBEDDERS) for key in tensors):
        shared = _transformer_tensors(setup).tensors
        tensors |= {key: tensor for key, tensor in shared.items() if key.startswith(EMBEDDERS)}
        base = setup.config
        config = replace(config, caption_channels=base.caption_channels, position=base.position)
    with torch.device("meta"):
        model = SanaControlNetModel(**_sizes(config))
    return _finished(model, tensors, config, place, dtype)


def autoencoder(setup: Setup, place: torch.device, dtype: torch.dtype) -> Any:
    """diffusers' AutoencoderDC."""
    from diffusers.models.autoencoders.autoencoder_dc import AutoencoderDC

    checkpoint = _read(setup.files.autoencoder, "vae")
    canonical = canonical_autoencoder(marked(checkpoint.tensors, checkpoint.metadata))
    config = autoencoder_config(canonical.tensors)
    with torch.device("meta"):
        model = AutoencoderDC(**_autoencoder_settings(config))
    return filled(model, canonical.tensors, place, dtype)


def text_encoder(setup: Setup, place: torch.device, dtype: torch.dtype) -> Any:
    """transformers' Gemma2Model, made by transformers' own loader."""
    import transformers

    checkpoint = _read(setup.files.text_encoder, "text_encoder")
    found = gemma2_tensors(marked(checkpoint.tensors, checkpoint.metadata))
    config = text_config(checkpoint, found)
    wanted = {name: getattr(config, name) for name in TextConfig.__dataclass_fields__}
    wanted |= {"attn_implementation": "eager", "use_cache": False, "pad_token_id": 0}
    stated = transformers.Gemma2Config(**wanted)
    with torch.device("meta"):
        expected = transformers.Gemma2Model(stated).state_dict()
    tensors = plain(found.tensors, expected, torch.device("cpu"), dtype)
    option = "dtype" if int(transformers.__version__.partition(".")[0]) >= 5 else "torch_dtype"
    options: dict[str, Any] = {"config": stated, "state_dict": tensors, option: dtype}
    with _without_bars():
        model: Any = transformers.Gemma2Model.from_pretrained(None, **options)
    return model.to(place).eval().requires_grad_(False)


def plain(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], place: torch.device, dtype: torch.dtype
) -> dict[str, Tensor]:
    """The tensors in `dtype`, quantised layers as numbers. Raises CheckpointError if one is missing."""
    layers = quantised_layers(tensors)
    found: dict[str, Tensor] = {}
    for key, like in expected.items():
        layer, _, last = key.rpartition(".")
        if layer in layers and last == "weight":
            form, before = layers[layer], f"{layer}."
            sides = {name.removeprefix(before): tensors[name] for name in tensors if name.startswith(before)}
            parts = {side: tensor for side, tensor in sides.items() if side == "weight" or form.side(side)}
            value = QuantisedWeight(form, tuple(like.shape[:2]), parts).numbers(dtype).reshape(like.shape)
        elif key in tensors:
            value = fitted({key: tensors[key]}, expected)[key]
        else:
            continue
        found[key] = value.to(dtype if value.is_floating_point() else value.dtype).to(place)
    if absent := [key for key in expected if key not in found]:
        raise CheckpointError(f"the reference has tensors that the file has not: {listed(absent, 3)}")
    return found


def filled(model: nn.Module, tensors: Mapping[str, Tensor], place: torch.device, dtype: torch.dtype) -> Any:
    """A model that was made on the meta device, with these weights."""
    model.load_state_dict(plain(tensors, model.state_dict(), place, dtype), assign=True)
    return model.eval().requires_grad_(False)


def _finished(
    model: Any, tensors: Mapping[str, Tensor], config: TransformerConfig, place: torch.device, dtype: torch.dtype
) -> Any:
    """With the position table, which no file holds, and with float16's clamp in every number type."""
    model = filled(model, tensors, place, dtype)
    if config.position is not None:
        embed = model.patch_embed
        made = type(embed)(
            height=config.position.base_size,
            width=config.position.base_size,
            patch_size=1,
            in_channels=config.latent_channels,
            embed_dim=config.hidden_size,
            interpolation_scale=config.position.interpolation,
            pos_embed_type="sincos",
        )
        embed.pos_embed = made.pos_embed.to(place)
    if config.fp16_trained is not False and dtype != torch.float16:
        for block in model.transformer_blocks:
            block.attn1.register_forward_hook(lambda _, given, out: out.clamp(-FLOAT16_MAX, FLOAT16_MAX))
    return model


@contextmanager
def _without_bars() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _transformer_tensors(setup: Setup) -> Canonical:
    checkpoint = _read(setup.files.transformer, "transformer")
    return canonical_transformer(marked(checkpoint.tensors, checkpoint.metadata))


def _read(path: Any, component: str) -> Checkpoint:
    return read_checkpoint(component_folder(path, component))


def _sizes(config: TransformerConfig) -> dict[str, Any]:
    """What transformer and ControlNet share."""
    position = config.position
    return {
        "in_channels": config.latent_channels,
        "out_channels": config.latent_channels,
        "num_attention_heads": config.num_heads,
        "attention_head_dim": config.hidden_size // config.num_heads,
        "num_layers": config.depth,
        "num_cross_attention_heads": config.num_cross_heads,
        "cross_attention_head_dim": config.hidden_size // config.num_cross_heads,
        "cross_attention_dim": config.hidden_size,
        "caption_channels": config.caption_channels,
        "mlp_ratio": (config.ffn_size + 0.5) / config.hidden_size,  # diffusers cuts the product to a whole number
        "sample_size": 32 if position is None else position.base_size,
        "interpolation_scale": None if position is None else position.interpolation,
    }


def _autoencoder_settings(config: AutoencoderConfig) -> dict[str, Any]:
    lite: dict[str, Any] = {"upsample_block_type": "pixel_shuffle", "decoder_conv_act_fn": "silu"}
    return {
        "latent_channels": config.geometry.channels,
        "downsample_block_type": "Conv",
        "scaling_factor": config.geometry.scaling_factor,
        **_stages("encoder", config.encoder),
        **_stages("decoder", config.decoder),
        **(lite if config.lite else {"upsample_block_type": "interpolate"}),
    }


def _stages(side: str, stages: tuple[StageConfig, ...]) -> dict[str, Any]:
    return {
        f"{side}_block_types": [BLOCKS[stage.block] for stage in stages],
        f"{side}_block_out_channels": [stage.channels for stage in stages],
        f"{side}_layers_per_block": [stage.depth for stage in stages],
        f"{side}_qkv_multiscales": [[5] if stage.block == "vit" else [] for stage in stages],
    }
