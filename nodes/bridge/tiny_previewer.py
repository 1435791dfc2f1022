"""The host's previewer for SANA: the tiny decoder tsd.safetensors where it lies in models/vae_approx, else colours by a
map.
"""

from __future__ import annotations

import logging
from typing import Any

import folder_paths
import latent_preview
import torch
from PIL import Image
from torch import Tensor

from ...sana_core.errors import CheckpointError
from ...sana_core.pictures.tiny_decoder import load_tiny_decoder
from .latent_format import SanaLatent

log = logging.getLogger("sana")
FILE = "tsd.safetensors"
LARGEST = 64  # cells a side: the decoder works at 8 times that


class TinyPreviewer(latent_preview.LatentPreviewer):
    """The first picture of a batch through the tiny decoder."""

    def __init__(self, path: str, device: torch.device) -> None:
        self.decoder = load_tiny_decoder(path).to(device)

    def decode_latent_to_preview(self, x0: Tensor) -> Image.Image:
        latent = x0[:1].float()
        largest = max(latent.shape[-2:])
        if largest > LARGEST:
            latent = torch.nn.functional.interpolate(latent, scale_factor=LARGEST / largest, mode="area")
        return latent_preview.preview_to_image(self.decoder(latent)[0].movedim(0, 2))


def sana_previewer(device: torch.device, latent_format: SanaLatent, method: Any) -> Any:
    """What shows latents of SANA; None if previews are off."""
    methods = latent_preview.LatentPreviewMethod
    if method == methods.NoPreviews:
        return None
    path = folder_paths.get_full_path("vae_approx", FILE)
    if path is not None and method in (methods.TAESD, methods.Auto):
        try:
            return TinyPreviewer(path, device)
        except CheckpointError as error:
            log.warning("previews are made without it: %s", error)
    return latent_preview.Latent2RGBPreviewer(
        latent_format.latent_rgb_factors,
        latent_format.latent_rgb_factors_bias,
        latent_format.latent_rgb_factors_reshape,
    )
