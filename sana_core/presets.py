"""The published SANA releases as data: what they are, how they are sampled, where they come from."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from .config import POSITIONS, SamplingDefaults, TransformerConfig

OWNER = "Efficient-Large-Model"  # on Hugging Face
LICENCE = (
    "NSCL v2-custom (NVIDIA License) as stated on the model card, which also points to the Gemma Terms of Use and the Gemma Prohibited Use "
    "Policy for the text encoder; read the LICENSE.txt of the repository before use"
)

BASE_06 = TransformerConfig(hidden_size=1152, depth=28, num_heads=36, num_cross_heads=16, ffn_size=2880)
BASE_16 = TransformerConfig(hidden_size=2240, depth=20, num_heads=70, num_cross_heads=20, ffn_size=5600)
BASE, FOUR_K = SamplingDefaults(), SamplingDefaults(shift=6.0)
SPRINT = SamplingDefaults(steps=2, guidance_scale=4.5, shift=1.0, sampler="scm")


@dataclass(frozen=True, kw_only=True)
class Release:
    """One published text-to-image model. `file` lies in `repository` in the original layout; `native_size` is the class of its trained
    sizes in pixels, see `latents.RESOLUTION_BINS`.
    """

    name: str
    config: TransformerConfig
    native_size: int
    sampling: SamplingDefaults
    file: str
    repository: str
    diffusers_repository: str
    licence: str = LICENCE

    @property
    def dtype(self) -> torch.dtype:
        """What it was trained in; run in the other 16-bit type it gives noise."""
        return torch.float16 if self.config.fp16_trained else torch.bfloat16


def _release(
    name: str, config: TransformerConfig, *, size: int = 1024, sampling: SamplingDefaults = BASE, file: str | None = None
) -> Release:
    return Release(
        name=name,
        config=config,
        native_size=size,
        sampling=replace(sampling, width=size, height=size),
        file=f"checkpoints/{file or name}.pth",
        repository=f"{OWNER}/{name}",
        diffusers_repository=f"{OWNER}/{name}_diffusers",
    )


FP16_06, FP16_16 = replace(BASE_06, fp16_trained=True), replace(BASE_16, fp16_trained=True)
SANA15_16 = replace(BASE_16, qk_norm=True)

RELEASES = (
    _release("Sana_600M_512px", FP16_06, size=512, file="Sana_600M_512px_MultiLing"),
    _release("Sana_600M_1024px", FP16_06, file="Sana_600M_1024px_MultiLing"),
    _release("Sana_1600M_512px", FP16_16, size=512),
    _release("Sana_1600M_512px_MultiLing", FP16_16, size=512),
    _release("Sana_1600M_1024px", FP16_16),
    _release("Sana_1600M_1024px_MultiLing", FP16_16),
    _release("Sana_1600M_1024px_BF16", BASE_16),
    _release("Sana_1600M_2Kpx_BF16", replace(BASE_16, position=POSITIONS["2k"]), size=2048),
    _release("Sana_1600M_4Kpx_BF16", replace(BASE_16, position=POSITIONS["4k"]), size=4096, sampling=FOUR_K),
    _release("SANA1.5_1.6B_1024px", SANA15_16),
    _release("SANA1.5_4.8B_1024px", replace(SANA15_16, depth=60)),
    _release("Sana_Sprint_0.6B_1024px", replace(BASE_06, qk_norm=True, guidance_embed=True), sampling=SPRINT),
    _release("Sana_Sprint_1.6B_1024px", replace(SANA15_16, guidance_embed=True), sampling=SPRINT),
)


def sampling_defaults(config: TransformerConfig, native_size: int | None = None) -> SamplingDefaults:
    """How a model of this configuration is sampled as released: Sprint, 4K, or the rest; other widths and depths are as their family.

    native_size: 512, 1024, 2048 or 4096 where it is known; None: what the position table tells, 1024 where there is none.
    """
    family = (config.guidance_embed, config.position)
    release = next((r for r in RELEASES if r.native_size >= 1024 and (r.config.guidance_embed, r.config.position) == family), None)
    defaults = release.sampling if release else BASE
    return replace(defaults, width=native_size, height=native_size) if native_size else defaults
