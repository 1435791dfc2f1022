"""Configurations of the three networks and of sampling, as frozen data.

Values of the published models stand in `presets.py`; `checkpoint/detect.py` reads them from the files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from .errors import InputError
from .geometry import DC_AE_F32, LatentGeometry

LINEAR_HEAD_DIM = 32
CROSS_HEAD_DIMS = (112, 72)  # 1.6B family, 0.6B family
LARGEST_SIZE = 1_000_000  # channels and the like; the released models stay below 300,000
LARGEST_DEPTH = 1_000  # blocks or layers; the released models stay below 100
SAMPLER_NAMES = ("flow_dpm", "flow_euler", "scm")


def check_whole(config: object, names: tuple[str, ...], largest: int, least: int = 1) -> None:
    """Raise InputError unless these attributes are whole numbers from `least` to `largest`."""
    for name in names:
        value = getattr(config, name)
        if type(value) is not int or not least <= value <= largest:
            raise InputError(f"{name} is {value!r}, expected a whole number from {least} to {largest}")


def cross_heads(hidden_size: int) -> int:
    """Number of cross-attention heads: hidden/112 (1.6B family) or hidden/72 (0.6B family). No tensor shape shows it.

    Raises InputError for a width of neither family.
    """
    for head_dim in CROSS_HEAD_DIMS:
        if hidden_size % head_dim == 0:
            return hidden_size // head_dim
    raise InputError(
        f"hidden size {hidden_size} is divisible by neither 112 nor 72: the number of cross-attention heads cannot be "
        "derived"
    )


@dataclass(frozen=True, kw_only=True)
class PositionConfig:
    """Fixed sin-cos position table of the 2K (base 64, interpolation 1) and 4K (base 128, interpolation 2) models.

    On each axis the coordinates of a grid of any size run from 0 to base_size / interpolation.
    """

    base_size: int
    interpolation: float

    def __post_init__(self) -> None:
        check_whole(self, ("base_size",), LARGEST_SIZE)
        if type(self.interpolation) not in (int, float) or not 0.0 < self.interpolation <= LARGEST_SIZE:
            raise InputError(f"interpolation is {self.interpolation!r}, expected a number above 0")


POSITIONS: dict[str, PositionConfig | None] = {
    "512": None,
    "1024": None,
    "2k": PositionConfig(base_size=64, interpolation=1.0),
    "4k": PositionConfig(base_size=128, interpolation=2.0),
}
NATIVE_SIZES = {"512": 512, "1024": 1024, "2k": 2048, "4k": 4096}  # pixels a side


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Linear DiT (SANA, arXiv:2410.10629, sec. 2.2). Sizes are channels; `ffn_size` is the width after the gate."""

    hidden_size: int
    depth: int
    num_heads: int
    num_cross_heads: int
    ffn_size: int
    caption_channels: int = 2304
    latent_channels: int = 32
    qk_norm: bool = False  # SANA-1.5 and Sprint
    guidance_embed: bool = False  # Sprint
    position: PositionConfig | None = None  # 2K and 4K
    fp16_trained: bool | None = False  # True: needs the clamp at float16's range; None: unknown, see `precision.py`

    def __post_init__(self) -> None:
        sizes = ("hidden_size", "num_heads", "num_cross_heads", "ffn_size", "caption_channels", "latent_channels")
        check_whole(self, sizes, LARGEST_SIZE)
        check_whole(self, ("depth",), LARGEST_DEPTH)
        for name, others in (("qk_norm", ()), ("guidance_embed", ()), ("fp16_trained", (None,))):
            value = getattr(self, name)
            if type(value) is not bool and value not in others:
                raise InputError(f"{name} is {value!r}, expected true or false")
        if self.position is not None and not isinstance(self.position, PositionConfig):
            raise InputError(f"position is {self.position!r}, expected a PositionConfig or None")
        if self.num_heads * LINEAR_HEAD_DIM != self.hidden_size:
            raise InputError(
                f"{self.num_heads} linear-attention heads of {LINEAR_HEAD_DIM} do not make hidden size "
                f"{self.hidden_size}"
            )
        if self.hidden_size % self.num_cross_heads:
            raise InputError(
                f"hidden size {self.hidden_size} is not divisible by {self.num_cross_heads} cross-attention heads"
            )

    @property
    def timestep_scale(self) -> float:
        """Sprint was trained on t in [0, 1]; the transformer takes t in [0, 1000] always and scales inside."""
        return 0.001 if self.guidance_embed else 1.0


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """One resolution of DC-AE: `block` is "res" (convolutions) or "vit" (linear attention and GLUMBConv), `depth` how
    many of them.
    """

    channels: int
    depth: int
    block: str

    def __post_init__(self) -> None:
        if self.block not in ("res", "vit"):
            raise InputError(f'a DC-AE stage has blocks "res" or "vit", not "{self.block}"')


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """DC-AE f32c32 (arXiv:2410.10733), stages from the highest to the lowest resolution.

    `lite` is the decoder of dc-ae-lite-f32c32-sana-1.1: pixel-shuffle upsampling in the stages and in the head, SiLU
    before the head.
    """

    encoder: tuple[StageConfig, ...]
    decoder: tuple[StageConfig, ...]
    lite: bool = False
    geometry: LatentGeometry = DC_AE_F32

    def __post_init__(self) -> None:
        if len(self.encoder) != 6 or len(self.decoder) != 6:
            raise InputError("DC-AE f32 has six stages in the encoder and six in the decoder")


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Gemma-2 decoder stack; field names are those of Hugging Face's `Gemma2Config`. Defaults: Gemma-2-2B."""

    hidden_size: int = 2304
    intermediate_size: int = 9216
    num_hidden_layers: int = 26
    num_attention_heads: int = 8
    num_key_value_heads: int = 4
    head_dim: int = 256
    query_pre_attn_scalar: int = 256
    vocab_size: int = 256000
    attn_logit_softcapping: float = 50.0
    final_logit_softcapping: float = 30.0  # of the language model's head, which only the check of prompts uses

    def __post_init__(self) -> None:
        sizes = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim")
        check_whole(self, (*sizes, "query_pre_attn_scalar", "vocab_size"), LARGEST_SIZE)
        check_whole(self, ("num_hidden_layers",), LARGEST_DEPTH, least=0)
        for name in ("attn_logit_softcapping", "final_logit_softcapping"):
            cap = getattr(self, name)
            if type(cap) not in (int, float) or not 0.0 < cap < math.inf:
                raise InputError(f"{name} is {cap!r}, expected a number above 0")
        heads, kv_heads = self.num_attention_heads, self.num_key_value_heads
        if heads % kv_heads or self.hidden_size % heads or self.head_dim % 2:
            raise InputError(
                f"hidden size {self.hidden_size}, {heads} heads of {self.head_dim} and {kv_heads} key/value heads do "
                "not fit together: correct num_attention_heads, num_key_value_heads and head_dim"
            )


@dataclass(frozen=True, kw_only=True)
class SamplingDefaults:
    """What a release is sampled with when the user says nothing. `sampler`: one of SAMPLER_NAMES; sizes in pixels."""

    steps: int = 20
    guidance_scale: float = 4.5
    shift: float = 3.0
    sampler: str = "flow_dpm"
    width: int = 1024
    height: int = 1024
