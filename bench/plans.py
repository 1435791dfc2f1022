"""What is measured on which machine: networks, sizes, prompts and how often."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from bench.networks import AUTOENCODERS, TINY_AUTOENCODER
from bench.paired import Clock
from bench.roofline import COPIED, SQUARE
from sana_core.config import AutoencoderConfig, StageConfig, TextConfig, TransformerConfig
from sana_core.presets import BASE_06, BASE_16, NETWORKS

FULL = AUTOENCODERS["DC-AE 1.0, 1.1"]


def narrower(config: AutoencoderConfig, divisor: int) -> AutoencoderConfig:
    """The same stages with fewer channels."""

    def sides(stages: tuple[StageConfig, ...]) -> tuple[StageConfig, ...]:
        return tuple(replace(stage, channels=stage.channels // divisor) for stage in stages)

    return replace(config, encoder=sides(config.encoder), decoder=sides(config.decoder))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Sizes are sides in pixels.

    networks: by section.  blocks: so many of each network; None: all.  tokens: real lengths of the prompt, out of 300.
    autoencoders: each with the sizes that it decodes.  tiled, tiles: sizes that it decodes in tiles, and their sizes.
    compiled: up to which size diffusers' blocks are compiled too, which takes some 20 seconds a size.  ceilings: to
    measure what the device can do, how many elements are copied, and the side of the matrices that are multiplied.
    """

    clock: Clock
    networks: dict[str, TransformerConfig]
    blocks: int | None = None
    dtypes: tuple[torch.dtype, ...]
    pixels: tuple[int, ...]
    tokens: tuple[int, ...] = (120,)
    loop_pixels: int
    loop_steps: int
    autoencoders: dict[str, tuple[AutoencoderConfig, tuple[int, ...]]]
    decode_dtype: torch.dtype
    tiled: tuple[int, ...] = ()
    tiles: tuple[int, ...] = ()
    text: TextConfig | None = None
    end_to_end_steps: int = 0
    compiled: int = 0
    ceilings: tuple[int, int] | None = None
    smoke: bool = False

    @property
    def device(self) -> torch.device:
        return self.clock.device

    def network(self, section: str) -> TransformerConfig:
        config = self.networks[section]
        return config if self.blocks is None else replace(config, depth=self.blocks)


CPU = Plan(
    clock=Clock(device=torch.device("cpu"), least_ms=250.0, rounds=11),
    networks={"0.6B": BASE_06, "1.6B": BASE_16},
    blocks=4,
    dtypes=(torch.float32, torch.bfloat16),
    pixels=(512, 1024),
    tokens=(120, 60),
    loop_pixels=512,
    loop_steps=3,
    autoencoders={"DC-AE, an eighth of the width": (narrower(FULL, 8), (512,)), "DC-AE": (FULL, (512,))},
    decode_dtype=torch.float32,
)
CUDA = Plan(
    clock=Clock(device=torch.device("cuda"), least_ms=50.0, rounds=15),
    networks={
        "1.6B": BASE_16,
        "0.6B": BASE_06,
        "4.8B": NETWORKS["SANA-1.5 4.8B"],
        "Sprint": NETWORKS["SANA-Sprint 1.6B"],
    },
    dtypes=(torch.bfloat16,),
    pixels=(1024, 512, 2048, 4096),
    loop_pixels=1024,
    loop_steps=20,
    autoencoders={"DC-AE": (FULL, (1024, 512, 2048))},
    decode_dtype=torch.bfloat16,
    tiled=(4096,),
    tiles=(1024, 512),
    text=TextConfig(),
    end_to_end_steps=20,
    compiled=1024,
    ceilings=(COPIED, SQUARE),
)
TINY = TransformerConfig(hidden_size=224, depth=2, num_heads=7, num_cross_heads=2, ffn_size=560)
TINY_TEXT = TextConfig(
    hidden_size=48, intermediate_size=80, num_hidden_layers=2, vocab_size=800, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, query_pre_attn_scalar=8,
)  # fmt: skip
SMOKE = Plan(
    clock=Clock(device=torch.device("cpu"), least_ms=1.0, rounds=3),
    networks={"1.6B": TINY, "Sprint": replace(TINY, qk_norm=True, guidance_embed=True)},
    dtypes=(torch.float32, torch.bfloat16),
    pixels=(256,),
    tokens=(20,),
    loop_pixels=256,
    loop_steps=3,
    autoencoders={"DC-AE": (TINY_AUTOENCODER, (128,))},
    decode_dtype=torch.float32,
    tiled=(256,),
    tiles=(128,),
    text=TINY_TEXT,
    end_to_end_steps=2,
    ceilings=(1 << 16, 64),
    smoke=True,
)
