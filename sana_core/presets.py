"""The published SANA releases as data: what they are, how they are sampled, where their files are, under which licence.

Sources: the projects' own lists of models (NVlabs/Sana `asset/docs/model_zoo.md`, the Hugging Face names in its
configurations and in diffusers' documentation) and, for the text encoder, Comfy-Org's repackaged file that ComfyUI's
Lumina 2 templates name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from .config import POSITIONS, SamplingDefaults, TransformerConfig

OWNER = "Efficient-Large-Model"  # on Hugging Face
LICENCE = (
    "NSCL v2-custom (NVIDIA License) as stated on the model card, which also points to the Gemma Terms of Use and the "
    "Gemma Prohibited Use Policy for the text encoder; read the LICENSE.txt of the repository before use"
)

BASE_06 = TransformerConfig(hidden_size=1152, depth=28, num_heads=36, num_cross_heads=16, ffn_size=2880)
BASE_16 = TransformerConfig(hidden_size=2240, depth=20, num_heads=70, num_cross_heads=20, ffn_size=5600)
GEMMA_LICENCE = "Gemma Terms of Use and Gemma Prohibited Use Policy (Google)"
AUTOENCODER_LICENCE = "stated on the repository's page; read it before use"
BASE, FOUR_K = SamplingDefaults(), SamplingDefaults(shift=6.0)
SPRINT = SamplingDefaults(steps=2, guidance_scale=4.5, shift=1.0, sampler="scm")
# Size of cross-attention heads -> the block that the released configurations perturb, and the number of all blocks.
PAG_LAYERS = {112: (8, 20), 72: (14, 28)}


@dataclass(frozen=True, kw_only=True)
class PublishedFile:
    """One file of a released model.

    repository: on Hugging Face, where everybody can download `file` without an account.  directory: its folder in
    ComfyUI's models.  licence: as the repository states it.  saved_as: a name that says what it is, where its own does
    not.  gigabytes: about how large the file is, where that is known.
    """

    name: str
    repository: str
    file: str
    directory: str
    licence: str = LICENCE
    saved_as: str = ""
    gigabytes: float | None = None

    @property
    def url(self) -> str:
        return f"https://huggingface.co/{self.repository}/resolve/main/{self.file}"

    @property
    def file_name(self) -> str:
        """As a browser saves it."""
        return self.file.rpartition("/")[2]

    @property
    def local_name(self) -> str:
        """As it should be called in the folder."""
        return self.saved_as or self.file_name


@dataclass(frozen=True, kw_only=True)
class Release(PublishedFile):
    """One published text-to-image model, in the original layout.

    native_size: side in pixels of the square picture among its trained sizes, see `latents.RESOLUTION_BINS`.
    diffusers_repository: where the same model is in diffusers' layout.
    """

    config: TransformerConfig
    native_size: int
    sampling: SamplingDefaults
    diffusers_repository: str

    @property
    def dtype(self) -> torch.dtype:
        """The number type it was trained in."""
        return torch.float16 if self.config.fp16_trained else torch.bfloat16


FP16_06, FP16_16 = replace(BASE_06, fp16_trained=True), replace(BASE_16, fp16_trained=True)
SANA15_16 = replace(BASE_16, qk_norm=True)

NETWORKS = {
    "SANA 0.6B": BASE_06,
    "SANA 1.6B": BASE_16,
    "SANA-1.5 1.6B": SANA15_16,
    "SANA-1.5 4.8B": replace(SANA15_16, depth=60),
    "SANA-Sprint 0.6B": replace(BASE_06, qk_norm=True, guidance_embed=True),
    "SANA-Sprint 1.6B": replace(SANA15_16, guidance_embed=True),
}
PARAMETERS = {  # of these networks
    "SANA 0.6B": 591_747_872,
    "SANA 1.6B": 1_604_462_752,
    "SANA-1.5 1.6B": 1_604_641_952,
    "SANA-1.5 4.8B": 4_721_825_952,
    "SANA-Sprint 0.6B": 593_501_216,
    "SANA-Sprint 1.6B": 1_610_237_472,
}
# Peaks of memory in GB, as docs/memory.md and the README have them: live tensors in 16 bits, a step with guidance.
# bench/memory.py counts them.
COUNTED_TEXT_ENCODER = 5.3
COUNTED = {  # by network and side of the picture in pixels
    ("SANA 0.6B", 512): 1.3,
    ("SANA 0.6B", 1024): 1.3,
    ("SANA 1.6B", 512): 3.4,
    ("SANA 1.6B", 1024): 3.5,
    ("SANA 1.6B", 2048): 3.9,
    ("SANA 1.6B", 4096): 4.8,
    ("SANA-1.5 1.6B", 1024): 3.5,
    ("SANA-1.5 4.8B", 1024): 9.9,
    ("SANA-Sprint 0.6B", 1024): 1.3,
    ("SANA-Sprint 1.6B", 1024): 3.3,
}


def same_network(config: TransformerConfig, other: TransformerConfig) -> bool:
    """Are these equal but for the position table and the number type of training?"""
    fields = ("hidden_size", "depth", "qk_norm", "guidance_embed")
    return all(getattr(config, field) == getattr(other, field) for field in fields)


def network_name(config: TransformerConfig) -> str:
    """ "SANA-1.5 4.8B" and the like; a description for sizes that were not published."""
    published = (name for name, network in NETWORKS.items() if same_network(network, config))
    return next(published, f"a SANA of {config.depth} blocks, {config.hidden_size} wide")


def counted_transformer(config: TransformerConfig, side: int) -> float | None:
    """GB that a step takes for a square picture, with the weights, in 16 bits; None where nothing was counted."""
    return COUNTED.get((network_name(config), side))


def _release(
    name: str,
    config: TransformerConfig,
    *,
    size: int = 1024,
    sampling: SamplingDefaults = BASE,
    file: str | None = None,
) -> Release:
    return Release(
        name=name,
        config=config,
        native_size=size,
        sampling=replace(sampling, width=size, height=size),
        file=f"checkpoints/{file or name}.pth",
        repository=f"{OWNER}/{name}",
        directory="diffusion_models",
        gigabytes=round(4e-9 * PARAMETERS[network_name(config)], 1),  # in float32
        diffusers_repository=f"{OWNER}/{name}_diffusers",
    )


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

TEXT_ENCODER = PublishedFile(
    name="Gemma-2-2B",
    repository="Comfy-Org/Lumina_Image_2.0_Repackaged",
    file="split_files/text_encoders/gemma_2_2b_fp16.safetensors",
    directory="text_encoders",
    licence=GEMMA_LICENCE,
    gigabytes=5.2,
)
AUTOENCODERS = tuple(
    PublishedFile(
        name=name,
        repository=f"mit-han-lab/{name}-diffusers",
        file="diffusion_pytorch_model.safetensors",
        directory="vae",
        licence=AUTOENCODER_LICENCE,
        saved_as=saved_as,
        gigabytes=gigabytes,
    )
    for name, saved_as, gigabytes in (
        ("dc-ae-f32c32-sana-1.1", "sana_dc_ae_f32c32_1.1.safetensors", 1.25),
        ("dc-ae-f32c32-sana-1.0", "sana_dc_ae_f32c32_1.0.safetensors", 1.25),
        ("dc-ae-lite-f32c32-sana-1.1", "sana_dc_ae_lite_f32c32_1.1.safetensors", None),
    )
)
CONTROLNETS = tuple(
    PublishedFile(name=name, repository=f"{OWNER}/{name}", file=f"checkpoints/{name}.pth", directory="controlnet")
    for name in ("Sana_1600M_1024px_BF16_ControlNet_HED", "Sana_600M_1024px_ControlNet_HED")
)


def sampling_defaults(config: TransformerConfig, native_size: int | None = None) -> SamplingDefaults:
    """How a model of this configuration is sampled as released. A model of another width or depth is sampled as its
    family: Sprint, 4K or the rest.

    native_size: side of its pictures in pixels; None: by the position table, 1024 for a model without one.
    """
    family = (config.guidance_embed, config.position)
    release = next(
        (r for r in RELEASES if r.native_size >= 1024 and (r.config.guidance_embed, r.config.position) == family), None
    )
    defaults = release.sampling if release else BASE
    return replace(defaults, width=native_size, height=native_size) if native_size else defaults


def pag_layer(config: TransformerConfig) -> int:
    """The block that perturbed-attention guidance perturbs: 8 in the 1.6B family, 14 in the 0.6B family (upstream's
    `pag_applied_layers`), in a shallower model the block at the same fraction of its depth.
    """
    layer, depth = PAG_LAYERS.get(config.hidden_size // config.num_cross_heads, PAG_LAYERS[112])
    return min(layer, config.depth * layer // depth)
