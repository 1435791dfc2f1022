"""The sizes of Sana-nano as data: networks, pictures, and how long each stage trains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from sana_core.config import (
    AutoencoderConfig,
    PositionConfig,
    SamplingDefaults,
    StageConfig,
    TextConfig,
    TransformerConfig,
)

from .resolution import Phase, check_phases

BLOCKS = ("res", "res", "res", "vit", "vit", "vit")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Steps, the phases they are spent in, peak rates of Muon and AdamW, and how many times each caption's picture is
    noised.

    decay: share of the steps over which the rate falls. average: decay of the moving average, 0 for none.
    """

    steps: int
    phases: tuple[Phase, ...]
    rate: float
    plain_rate: float
    warmup: int = 50
    decay: float = 0.5
    repeats: int = 1
    average: float = 0.0

    def __post_init__(self) -> None:
        check_phases(self.phases)


@dataclass(frozen=True, kw_only=True)
class Size:
    """Everything that tells one Sana-nano from another.

    source: "listed" (the drawings of concepts.txt), "core" (all of emojibase's smileys, animals, food, travel,
    activities and objects) or "drawn" (a few plain shapes, for tests). styles: folders of drawings, the first is the
    one nobody has to ask for. splits: file beside this one with what is never trained; None chooses it afresh. kinds:
    how often a scene is of which kind. mirrored: half of the scenes are, by chance. scenes: pictures that the
    transformer is trained on. subject: the drawing that a LoRA gives a name. control_depth: copied blocks of the
    ControlNet. lora_rank: of both LoRAs.
    """

    name: str
    pixels: int
    source: str
    styles: tuple[str, ...]
    splits: str | None
    kinds: Mapping[str, float]
    mirrored: bool
    scenes: int
    controlled: int
    subject: str
    autoencoder: AutoencoderConfig
    text: TextConfig
    transformer: TransformerConfig
    sampling: SamplingDefaults
    training_shift: float
    control_depth: int
    lora_rank: int
    stages: Mapping[str, Stage]


def autoencoder(channels: tuple[int, ...], encoder: tuple[int, ...], decoder: tuple[int, ...]) -> AutoencoderConfig:
    """4 * narrow must be divisible by wide at every stage, and the last stage by 32: the shortcuts need it."""

    def stages(depths: tuple[int, ...]) -> tuple[StageConfig, ...]:
        return tuple(StageConfig(channels=c, depth=d, block=b) for c, d, b in zip(channels, depths, BLOCKS))

    return AutoencoderConfig(encoder=stages(encoder), decoder=stages(decoder))


def text(*, hidden_size: int, heads: int, layers: int, intermediate_size: int, vocab_size: int) -> TextConfig:
    return TextConfig(
        hidden_size=hidden_size, intermediate_size=intermediate_size, num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=1, head_dim=hidden_size // heads, query_pre_attn_scalar=hidden_size // heads,
        vocab_size=vocab_size,
    )  # fmt: skip


def transformer(
    *, depth: int, ffn_size: int, caption_channels: int, position: PositionConfig | None = None
) -> TransformerConfig:
    """Width 224 has whole numbers of linear heads (7 of 32) and of cross-attention heads (2 of 112), as the released
    models do.

    position: the table of the 2K and 4K models, for grids that the zero padding of few convolutions does not reach
    across.
    """
    return TransformerConfig(
        hidden_size=224, depth=depth, num_heads=7, num_cross_heads=2, ffn_size=ffn_size,
        caption_channels=caption_channels,
        position=position,
    )  # fmt: skip


def one_phase(pixels: int, batch: int) -> tuple[Phase, ...]:
    return (Phase(pixels=pixels, batch=batch, share=1.0),)


def small_first(small: tuple[int, int], large: tuple[int, int], share: float) -> tuple[Phase, ...]:
    """(pixels, batch) twice; `share` of the steps on the small pictures."""
    return (
        Phase(pixels=small[0], batch=small[1], share=share),
        Phase(pixels=large[0], batch=large[1], share=1 - share),
    )


WIDE = (16, 32, 64, 64, 128, 128)
NARROW = (16, 32, 32, 32, 32, 32)

SMALL_128 = Size(  # one style of 254 things
    name="128",
    pixels=128,
    source="listed",
    styles=("noto",),
    splits="splits.json",
    kinds={"plain": 0.74, "background": 0.19, "small": 0.07},
    mirrored=True,
    scenes=254 * 32,
    controlled=4096,
    subject="noto/1f9a4",  # a dodo
    autoencoder=autoencoder(WIDE, (1, 1, 1, 1, 1, 1), (1, 1, 1, 1, 2, 2)),
    text=text(hidden_size=192, heads=3, layers=3, intermediate_size=384, vocab_size=4096),
    transformer=transformer(depth=6, ffn_size=560, caption_channels=192),
    sampling=SamplingDefaults(steps=20, guidance_scale=3.0, shift=2.0, sampler="flow_dpm", width=128, height=128),
    training_shift=2.0,
    control_depth=2,
    lora_rank=8,
    stages={
        "autoencoder": Stage(steps=1400, phases=one_phase(128, 16), rate=4e-3, plain_rate=1.5e-3, warmup=14),
        "decoder": Stage(steps=4000, phases=one_phase(128, 8), rate=3e-3, plain_rate=1.5e-3, warmup=40),
        "text": Stage(steps=500, phases=one_phase(128, 128), rate=8e-3, plain_rate=2e-3, decay=0.3),
        "transformer": Stage(
            steps=1500, phases=one_phase(128, 128), rate=8e-3, plain_rate=2e-3, warmup=15, repeats=2, average=0.998
        ),
        "sprint": Stage(steps=400, phases=one_phase(128, 64), rate=2e-3, plain_rate=5e-4, average=0.99),
        "controlnet": Stage(steps=900, phases=one_phase(128, 64), rate=4e-3, plain_rate=1e-3, average=0.99),
        "lora_style": Stage(steps=1000, phases=one_phase(128, 32), rate=2e-3, plain_rate=2e-3, warmup=10),
        "lora_subject": Stage(steps=500, phases=one_phase(128, 16), rate=1e-3, plain_rate=1e-3, warmup=10),
    },
)

TARGET_256 = Size(  # 19.9 MB in float16
    name="256",
    pixels=256,
    source="core",
    styles=("noto", "fluent3d"),
    splits="splits_256.json",
    kinds={"plain": 0.40, "background": 0.22, "small": 0.08, "place": 0.15, "pair": 0.15},
    mirrored=True,
    scenes=98304,
    controlled=32768,
    subject="noto/1f9de",  # a genie
    autoencoder=autoencoder(WIDE, (1, 1, 1, 1, 1, 1), (1, 1, 1, 1, 2, 2)),
    text=text(hidden_size=192, heads=3, layers=3, intermediate_size=256, vocab_size=5120),
    transformer=transformer(
        depth=6, ffn_size=560, caption_channels=192, position=PositionConfig(base_size=8, interpolation=1.0)
    ),
    sampling=SamplingDefaults(steps=20, guidance_scale=3.0, shift=2.5, sampler="flow_dpm", width=256, height=256),
    training_shift=2.5,
    control_depth=2,
    lora_rank=8,
    stages={
        "autoencoder": Stage(
            steps=5000,
            phases=small_first((128, 128), (256, 64), 0.5),
            rate=4e-3,
            plain_rate=1.5e-3,
            warmup=50,
            decay=0.4,
        ),
        "decoder": Stage(steps=2000, phases=one_phase(256, 64), rate=3e-3, plain_rate=1.5e-3, warmup=20, decay=0.7),
        "text": Stage(steps=1000, phases=one_phase(256, 256), rate=8e-3, plain_rate=2e-3, decay=0.3),
        "transformer": Stage(
            steps=6000,
            phases=small_first((128, 256), (256, 256), 0.4),
            rate=8e-3,
            plain_rate=2e-3,
            warmup=50,
            repeats=4,
            average=0.999,
        ),
        "sprint": Stage(steps=1500, phases=one_phase(256, 512), rate=2e-3, plain_rate=5e-4, average=0.99),
        "controlnet": Stage(steps=1000, phases=one_phase(256, 256), rate=4e-3, plain_rate=1e-3, average=0.99),
        "lora_style": Stage(steps=1000, phases=one_phase(256, 128), rate=2e-3, plain_rate=2e-3, warmup=10),
        "lora_subject": Stage(steps=500, phases=one_phase(256, 32), rate=1e-3, plain_rate=1e-3, warmup=10),
    },
)

CPU_256 = replace(  # the model in sana_core/nano, for two CPU cores; its autoencoder begins with that of size 128
    TARGET_256,
    name="256_cpu",
    mirrored=False,
    scenes=8192,
    controlled=3072,
    stages={
        "autoencoder": Stage(steps=400, phases=one_phase(256, 16), rate=2e-3, plain_rate=7e-4, warmup=20, decay=0.9),
        "decoder": Stage(steps=600, phases=one_phase(256, 16), rate=1e-3, plain_rate=5e-4, warmup=20, decay=0.9),
        "text": Stage(steps=700, phases=one_phase(256, 128), rate=8e-3, plain_rate=2e-3, decay=0.3),
        "transformer": Stage(
            steps=14000,
            phases=small_first((128, 64), (256, 32), 0.155),
            rate=4e-3,
            plain_rate=1e-3,
            decay=0.13,
            repeats=4,
            average=0.998,
        ),
        "sprint": Stage(steps=1000, phases=one_phase(256, 64), rate=1.5e-3, plain_rate=4e-4, decay=0.7, average=0.99),
        "controlnet": Stage(steps=1400, phases=one_phase(256, 64), rate=4e-3, plain_rate=1e-3, average=0.99),
        "lora_style": Stage(steps=800, phases=one_phase(256, 32), rate=2e-3, plain_rate=2e-3, warmup=10),
        "lora_subject": Stage(steps=500, phases=one_phase(256, 16), rate=1e-3, plain_rate=1e-3, warmup=10),
    },
)

TOY = Size(  # every stage in seconds on one core: it shows that the path works, and draws nothing
    name="toy",
    pixels=64,
    source="drawn",
    styles=("flat", "shaded"),
    splits=None,
    kinds={"plain": 0.4, "background": 0.2, "small": 0.1, "place": 0.15, "pair": 0.15},
    mirrored=True,
    scenes=64,
    controlled=48,
    subject="flat/2699",
    autoencoder=autoencoder(NARROW, (1, 1, 1, 1, 1, 1), (1, 1, 1, 1, 1, 1)),
    text=text(hidden_size=48, heads=3, layers=2, intermediate_size=64, vocab_size=640),
    transformer=transformer(
        depth=3, ffn_size=224, caption_channels=48, position=PositionConfig(base_size=2, interpolation=1.0)
    ),
    sampling=SamplingDefaults(steps=4, guidance_scale=2.0, shift=2.0, sampler="flow_dpm", width=64, height=64),
    training_shift=2.0,
    control_depth=1,
    lora_rank=4,
    stages={
        "autoencoder": Stage(
            steps=48, phases=small_first((32, 8), (64, 8), 0.25), rate=4e-3, plain_rate=1.5e-3, warmup=2
        ),
        "decoder": Stage(steps=6, phases=one_phase(64, 8), rate=3e-3, plain_rate=1.5e-3, warmup=2),
        "text": Stage(steps=12, phases=one_phase(64, 16), rate=2e-2, plain_rate=5e-3, warmup=2),
        "transformer": Stage(
            steps=30,
            phases=small_first((32, 16), (64, 16), 0.2),
            rate=2e-2,
            plain_rate=5e-3,
            warmup=2,
            repeats=2,
            average=0.9,
        ),
        "sprint": Stage(steps=10, phases=one_phase(64, 16), rate=5e-3, plain_rate=1e-3, warmup=2, average=0.5),
        "controlnet": Stage(steps=6, phases=one_phase(64, 16), rate=5e-3, plain_rate=1e-3, warmup=2, average=0.5),
        "lora_style": Stage(steps=6, phases=one_phase(64, 8), rate=5e-3, plain_rate=5e-3, warmup=1),
        "lora_subject": Stage(steps=6, phases=one_phase(64, 4), rate=5e-3, plain_rate=5e-3, warmup=1),
    },
)

SIZES = {size.name: size for size in (SMALL_128, TARGET_256, CPU_256, TOY)}
