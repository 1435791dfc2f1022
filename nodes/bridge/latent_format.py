"""Latents of DC-AE f32c32 as ComfyUI's latent format, and what its previews show."""

from __future__ import annotations

from collections.abc import Callable

import comfy.latent_formats
import torch
from torch import Tensor

from ...sana_core.geometry import DC_AE_F32
from ...sana_core.pictures.preview import INPUTS, PreviewMap
from .previews import learnt

CHANNELS = DC_AE_F32.channels


class SanaLatent(comfy.latent_formats.LatentFormat):
    """32 channels, 32 x 32 pixels per cell. The host keeps raw latents and scales them around sampling.

    The host's preview multiplies the channels by `latent_rgb_factors`, after `latent_rgb_factors_reshape`, which makes
    here a picture of 8 x 8 points a cell, put into 32 channels so that the factors give its colours. Previewers of
    other packs leave the reshaping out and get one colour a cell. Without a map, before the first decode, the preview
    shows structure: each cell is as bright as its latent is far from the picture's mean.

    own: the map that came with a model's file.
    """

    latent_channels = CHANNELS
    latent_dimensions = 2
    spacial_downscale_ratio = DC_AE_F32.downscale  # the host's spelling
    scale_factor = DC_AE_F32.scaling_factor

    def __init__(self, own: PreviewMap | None = None) -> None:
        self.own = own

    @property
    def map(self) -> PreviewMap | None:
        return self.own or learnt.current()

    @property
    def latent_rgb_factors(self) -> list[list[float]]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """(32, 3)."""
        return _plain(self.map)[0].tolist()

    @property
    def latent_rgb_factors_bias(self) -> list[float]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return _plain(self.map)[1].tolist()

    @property
    def latent_rgb_factors_reshape(self) -> Callable[[Tensor], Tensor]:  # pyright: ignore[reportIncompatibleVariableOverride]
        found = self.map
        return structure if found is None else lambda latent: coloured(latent, found)


def _plain(found: PreviewMap | None) -> tuple[Tensor, Tensor]:
    """One colour for a cell: factors (32, 3) and bias (3,)."""
    if found is None:
        return torch.full((CHANNELS, 3), 1.0 / CHANNELS), torch.zeros(3)
    colours = found.weight.unflatten(1, (3, -1)).mean(2)  # (289, 3)
    return colours[:INPUTS].unflatten(0, (CHANNELS, 9)).sum(1), colours[INPUTS]


def coloured(latent: Tensor, found: PreviewMap) -> Tensor:
    """(B, 32, h, w) -> (B, 32, p h, p w), of which the factors of `_plain` make the map's colours."""
    factors, bias = (tensor.to(latent.device) for tensor in _plain(found))
    picture = found.picture(latent) - bias[:, None, None]
    inverse = torch.linalg.pinv(factors.double()).to(picture)  # (3, 32)
    return torch.einsum("bchw,cn->bnhw", picture, inverse).to(latent.dtype)


def structure(latent: Tensor) -> Tensor:
    """(B, 32, h, w) -> the same shape, all channels alike, in -1..1: the distance of every cell from the mean cell,
    stretched to the whole range.
    """
    distance = (latent - latent.mean(dim=(2, 3), keepdim=True)).square().sum(dim=1, keepdim=True).sqrt()
    low, high = distance.amin(dim=(2, 3), keepdim=True), distance.amax(dim=(2, 3), keepdim=True)
    stretched = (distance - low) / (high - low).clamp_min(1e-6) * 2.0 - 1.0
    return stretched.expand(-1, CHANNELS, -1, -1)
