"""Latents of DC-AE f32c32 as ComfyUI's latent format."""

from __future__ import annotations

from typing import ClassVar

import comfy.latent_formats
from torch import Tensor

from ...sana_core.geometry import DC_AE_F32

CHANNELS = DC_AE_F32.channels


class SanaLatent(comfy.latent_formats.LatentFormat):
    """32 channels, 32 x 32 pixels per cell. The host keeps raw latents and scales them around sampling.

    No linear map from these latents to RGB has been measured. The host's preview shows structure instead of colour:
    each cell is as bright as its latent is far from the picture's mean. Previewers of other packs multiply each channel
    by its row of `latent_rgb_factors`, and get the mean of the channels in grey.
    """

    latent_channels = CHANNELS
    latent_dimensions = 2
    spacial_downscale_ratio = DC_AE_F32.downscale  # the host's spelling
    scale_factor = DC_AE_F32.scaling_factor
    latent_rgb_factors: ClassVar[list[list[float]]] = [[1.0 / CHANNELS] * 3 for _ in range(CHANNELS)]
    latent_rgb_factors_bias: ClassVar[list[float]] = [0.0] * 3

    def __init__(self) -> None:
        self.latent_rgb_factors_reshape = structure


def structure(latent: Tensor) -> Tensor:
    """(B, 32, h, w) -> the same shape, all channels alike, in -1..1: the distance of every cell from the mean cell,
    stretched to the whole range.
    """
    distance = (latent - latent.mean(dim=(2, 3), keepdim=True)).square().sum(dim=1, keepdim=True).sqrt()
    low, high = distance.amin(dim=(2, 3), keepdim=True), distance.amax(dim=(2, 3), keepdim=True)
    stretched = (distance - low) / (high - low).clamp_min(1e-6) * 2.0 - 1.0
    return stretched.expand(-1, CHANNELS, -1, -1)
