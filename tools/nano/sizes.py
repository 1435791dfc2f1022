"""The configurations of Sana-nano: the published architectures with small numbers (20 MB in float16 altogether)."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the scripts run from a checkout, where sana_core is not installed

from sana_core.config import AutoencoderConfig, SamplingDefaults, StageConfig, TextConfig, TransformerConfig  # noqa: E402

IMAGE_SIZE = 128
LATENT_SIZE = IMAGE_SIZE // 32
LATENT_STD = 2.4  # of raw latents: times 0.41407 this is unit variance
CHANNELS = (16, 32, 64, 64, 128, 128)
BLOCKS = ("res", "res", "res", "vit", "vit", "vit")


def stages(depths: tuple[int, ...]) -> tuple[StageConfig, ...]:
    return tuple(StageConfig(channels=c, depth=d, block=b) for c, d, b in zip(CHANNELS, depths, BLOCKS))


AUTOENCODER = AutoencoderConfig(encoder=stages((1, 1, 1, 1, 1, 1)), decoder=stages((1, 1, 1, 1, 2, 2)))
TEXT = TextConfig(
    hidden_size=192,
    intermediate_size=384,
    num_hidden_layers=3,
    num_attention_heads=3,
    num_key_value_heads=1,
    head_dim=64,
    query_pre_attn_scalar=64,
    vocab_size=4096,
)
TRANSFORMER = TransformerConfig(hidden_size=224, depth=6, num_heads=7, num_cross_heads=2, ffn_size=560, caption_channels=TEXT.hidden_size)
SAMPLING = SamplingDefaults(steps=20, guidance_scale=3.0, shift=2.0, sampler="flow_dpm", width=IMAGE_SIZE, height=IMAGE_SIZE)
