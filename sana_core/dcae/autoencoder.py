"""DC-AE f32c32, the deep-compression autoencoder of SANA (arXiv:2410.10733; SANA, arXiv:2410.10629, sec. 2.1)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from ..config import AutoencoderConfig
from ..errors import InputError
from ..kit import Kit
from .memory import auto_tile
from .networks import Decoder, Encoder
from .tiling import decode_tiled, encode_tiled


class DCAE(nn.Module):
    """Encoder and decoder with the scale of SANA's latents: `encode` multiplies by 0.41407, `decode` divides."""

    def __init__(self, config: AutoencoderConfig, kit: Kit | None = None) -> None:
        super().__init__()
        self.config, self.geometry = config, config.geometry
        self.encoder = Encoder(config, kit or Kit())
        self.decoder = Decoder(config, kit or Kit())

    def encode(self, image: Tensor, *, tile: int | Literal["auto"] | None = None) -> Tensor:
        """image: (B, 3, H, W) in -1..1, H and W multiples of 32 -> latent (B, 32, H/32, W/32) of about unit variance.

        tile: as in `decode`.
        """
        cell = self.geometry.downscale
        if image.ndim != 4 or image.shape[1] != 3 or any(side < 1 or side % cell for side in image.shape[-2:]):
            expected = f"(B, 3, H, W) with H and W positive and divisible by {cell}"
            raise InputError(f"DC-AE encodes {expected}, got {tuple(image.shape)}: crop or pad the picture")
        if tile is None:
            return self.encoder(image) * self.geometry.scaling_factor
        side = auto_tile(self.config, image.shape[-2], image.shape[-1], image, encode=True) if tile == "auto" else tile
        return encode_tiled(self.encoder, image, tile=side) * self.geometry.scaling_factor

    def decode(self, latent: Tensor, *, tile: int | Literal["auto"] | None = None) -> Tensor:
        """latent: (B, 32, h, w) of about unit variance -> image (B, 3, 32 h, 32 w), about -1..1, not clamped.

        tile: side of exact tiles in pixels, a multiple of 32 from 128, which saves memory and changes nothing but
        rounding, without gradients. "auto": as large as the free memory allows. None: the whole picture at once.
        """
        channels = self.geometry.channels
        if latent.ndim != 4 or latent.shape[1] != channels:
            found = tuple(latent.shape)
            raise InputError(
                f"DC-AE decodes latents (B, {channels}, h, w), got {found}: these latents come from another model"
            )
        raw = latent / self.geometry.scaling_factor
        if tile is None:
            return self.decoder(raw)
        height, width = self.geometry.in_pixels(latent.shape)
        side = auto_tile(self.config, height, width, raw) if tile == "auto" else tile
        return decode_tiled(self.decoder, raw, tile=side)
