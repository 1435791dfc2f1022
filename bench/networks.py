"""The published networks in sana_core's and in diffusers' code, without weights or with random ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from sana_core.checkpoint.canonical import Canonical, canonical_autoencoder, canonical_transformer
from sana_core.checkpoint.load import load_strictly
from sana_core.config import AutoencoderConfig, StageConfig, TextConfig, TransformerConfig
from sana_core.dcae.autoencoder import DCAE
from sana_core.fast import make_fast, use_kernels
from sana_core.kernels.choice import CHOSEN, Kernels, kernels_for
from sana_core.kit import Kit
from sana_core.text.gemma import GemmaTextEncoder
from sana_core.transformer.model import SanaTransformer

WIDTHS = (128, 256, 512, 512, 1024, 1024)
RES, VIT = ("res",) * 6, ("res",) * 3 + ("vit",) * 3
BLOCK_TYPES = {"res": "ResBlock", "vit": "EfficientViTBlock"}  # diffusers' names


def _stages(
    depths: tuple[int, ...], blocks: tuple[str, ...], widths: tuple[int, ...] = WIDTHS
) -> tuple[StageConfig, ...]:
    return tuple(
        StageConfig(channels=width, depth=depth, block=block) for width, depth, block in zip(widths, depths, blocks)
    )


ENCODER = _stages((2, 2, 2, 3, 3, 3), VIT)
AUTOENCODERS = {
    "DC-AE 1.0, 1.1": AutoencoderConfig(encoder=ENCODER, decoder=_stages((3, 3, 3, 3, 3, 3), VIT)),
    "DC-AE Lite": AutoencoderConfig(encoder=ENCODER, decoder=_stages((0, 3, 5, 4, 4, 4), RES), lite=True),
}
TINY = _stages((1,) * 6, VIT, (16, 32, 64, 64, 128, 128))
TINY_AUTOENCODER = AutoencoderConfig(encoder=TINY, decoder=TINY)


def autoencoder(config: AutoencoderConfig, device: torch.device, dtype: torch.dtype) -> DCAE:
    return randomized(DCAE(config, Kit(device=device, dtype=dtype)))


def transformer(
    config: TransformerConfig, device: torch.device, dtype: torch.dtype, kernels: Kernels = CHOSEN
) -> SanaTransformer:
    return randomized(SanaTransformer(config, Kit(device=device, dtype=dtype, kernels=kernels)))


def transformer_like(theirs: nn.Module, config: TransformerConfig, fast: str = "auto") -> SanaTransformer:
    """sana_core's network on the weights of diffusers' `SanaTransformer2DModel`.

    fast: "off", "auto" or "max", as of `load_pipeline`.
    """
    network = _with_weights(SanaTransformer(config, Kit(device="meta")), canonical_transformer(theirs.state_dict()))
    make_fast(network, fast=fast, device=network.scale_shift_table.device, stays=True)
    return network


def autoencoder_like(theirs: nn.Module, config: AutoencoderConfig, fast: str = "auto") -> DCAE:
    """The same for diffusers' `AutoencoderDC`."""
    network = _with_weights(DCAE(config, Kit(device="meta")), canonical_autoencoder(theirs.state_dict()))
    use_kernels(network, kernels_for(fast))
    return network


def _with_weights(network: Any, weights: Canonical) -> Any:
    some = next(iter(weights.tensors.values()))
    return load_strictly(network, weights, some.device, some.dtype)


def text_encoder(config: TextConfig, device: torch.device, dtype: torch.dtype) -> GemmaTextEncoder:
    """Gemma-2 of random weights without a tokenizer."""
    shapes = GemmaTextEncoder(config).model.state_dict()
    weights = {
        name: torch.randn(shape.shape, device=device, dtype=dtype) * shape.shape[-1] ** -0.5
        for name, shape in shapes.items()
    }
    return GemmaTextEncoder(config, None, weights)


def diffusers_autoencoder(config: AutoencoderConfig, device: torch.device, dtype: torch.dtype) -> Any:
    """diffusers' `AutoencoderDC` of the same structure."""
    from diffusers.models.autoencoders.autoencoder_dc import AutoencoderDC

    upsampling: dict[str, Any] = {"upsample_block_type": "interpolate"}
    if config.lite:
        upsampling = {"upsample_block_type": "pixel_shuffle", "decoder_conv_act_fn": "silu"}
    with _made(device, dtype):
        model = AutoencoderDC(
            latent_channels=config.geometry.channels,
            downsample_block_type="Conv",
            scaling_factor=config.geometry.scaling_factor,
            **_side("encoder", config.encoder),
            **_side("decoder", config.decoder),
            **upsampling,
        )
    return randomized(model)


def diffusers_transformer(config: TransformerConfig, sample_size: int, device: torch.device, dtype: torch.dtype) -> Any:
    """diffusers' `SanaTransformer2DModel` of the same structure. sample_size: side of its latents, for the position
    table.
    """
    from diffusers.models.transformers.sana_transformer import SanaTransformer2DModel

    with _made(device, dtype):
        model = SanaTransformer2DModel(
            num_attention_heads=config.num_heads,
            attention_head_dim=config.hidden_size // config.num_heads,
            num_cross_attention_heads=config.num_cross_heads,
            cross_attention_head_dim=config.hidden_size // config.num_cross_heads,
            cross_attention_dim=config.hidden_size,
            num_layers=config.depth,
            caption_channels=config.caption_channels,
            sample_size=sample_size,
            interpolation_scale=None if config.position is None else config.position.interpolation,  # pyright: ignore[reportArgumentType]
            qk_norm="rms_norm_across_heads" if config.qk_norm else None,
            guidance_embeds=config.guidance_embed,
            timestep_scale=config.timestep_scale,
        )
    return randomized(model)


@torch.no_grad()
def randomized(model: nn.Module) -> Any:
    """Evaluation mode, no gradients, and random weights that keep activations in range; none on meta."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=parameter[0].numel() ** -0.5)
        else:
            parameter.normal_(mean=0.5, std=0.1)
    return model.eval().requires_grad_(False)


@contextmanager
def _made(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """What is made inside is on `device` and of `dtype`."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


def _side(name: str, stages: tuple[StageConfig, ...]) -> dict[str, Any]:
    return {
        f"{name}_block_types": [BLOCK_TYPES[stage.block] for stage in stages],
        f"{name}_block_out_channels": [stage.channels for stage in stages],
        f"{name}_layers_per_block": [stage.depth for stage in stages],
        f"{name}_qkv_multiscales": [[5] if stage.block == "vit" else [] for stage in stages],
    }


def fake_gpu() -> torch.device:
    """CUDA, or "lazy" where this build of PyTorch cannot place even fake tensors there."""
    with FakeTensorMode():
        try:
            return torch.empty(1, device="cuda:0")[:1].device
        except RuntimeError:
            return torch.device("lazy:0")
