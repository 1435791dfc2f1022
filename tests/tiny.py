"""Tiny random networks in the shapes of the released ones, shared by the tests."""

import torch

from sana_core.config import AutoencoderConfig, StageConfig, TransformerConfig, cross_heads
from sana_core.dcae.autoencoder import DCAE
from sana_core.transformer.controlnet import SanaControlNet
from sana_core.transformer.model import SanaTransformer


def transformer_config(hidden_size=224, depth=2, **changes):
    return TransformerConfig(
        hidden_size=hidden_size, depth=depth, num_heads=hidden_size // 32, num_cross_heads=cross_heads(hidden_size),
        ffn_size=hidden_size * 5 // 2, **{"caption_channels": 96, **changes},
    )  # fmt: skip


def autoencoder_config(lite=False, depth=1):
    widths, blocks = (16, 32, 64, 64, 128, 128), ("res",) * 3 + ("vit",) * 3
    stages = tuple(StageConfig(channels=width, depth=depth, block=block) for width, block in zip(widths, blocks))
    decoder = (
        tuple(StageConfig(channels=max(width, 32), depth=depth * (width > 16), block="res") for width in widths)
        if lite
        else stages
    )
    return AutoencoderConfig(encoder=stages, decoder=decoder, lite=lite)


@torch.no_grad()
def randomized(model, seed=0):
    """Every tensor gets values of its own, so that forgetting any of them shows."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim == 1:
            parameter.copy_(noise * 0.1 + (0 if name.endswith("bias") else 1))
        else:
            parameter.copy_(noise * (0.3 if "table" in name else parameter[0].numel() ** -0.5))
    return model.eval().requires_grad_(False)


def transformer(seed=0, **changes):
    return randomized(SanaTransformer(transformer_config(**changes)), seed)


def controlnet(seed=0, embedders=True, order="upstream", **changes):
    """Of one block, for a transformer of two or more."""
    return randomized(
        SanaControlNet(transformer_config(**{"depth": 1, **changes}), embedders=embedders, order=order), seed
    )


def autoencoder(seed=0, **changes):
    return randomized(DCAE(autoencoder_config(**changes)), seed)
