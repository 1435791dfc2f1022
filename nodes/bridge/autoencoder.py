"""DC-AE in ComfyUI's hands: exact tiles by the free memory, the picture written where the host wants it, interrupt and
progress.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import comfy.model_management
import comfy.sd
import torch
from torch import Tensor

from ...sana_core.config import AutoencoderConfig
from ...sana_core.dcae.autoencoder import DCAE
from ...sana_core.dcae.blending import decode_blended
from ...sana_core.dcae.memory import MARGIN, PeakBytes, decode_peak_bytes, encode_peak_bytes, pick_tile
from ...sana_core.dcae.tiling import MIN_TILE, decode_tiled, encode_tiled
from ...sana_core.device import out_of_memory
from ...sana_core.errors import InputError
from ...sana_core.geometry import DC_AE_F32
from .previews import learn
from .progress import counted

Tile = int | Literal["auto"] | None
"""Side of a tile in pixels; "auto": chosen by the free memory; None: the whole picture at once."""
USUAL_TILE = 1024
"""Largest tile of "auto", in pixels, and the one that the host is asked to make room for. A larger one gains nothing
and drives other models out of memory.
"""


class ComfyDCAE(DCAE):
    """DC-AE on the host's side of the latent scale: raw latents, which the model's latent format scales."""

    comfy_has_chunked_io = True
    """For the host: `encode` takes the picture from any device, `decode` writes into the host's buffer."""

    fingerprint: str | None = None
    """Under what the colours of previews are learnt; None: not at all."""

    def encode(self, image: Tensor, device: torch.device | None = None, *, tile: Tile = "auto") -> Tensor:
        """(B, 3, H, W) in -1..1 -> raw latent (B, 32, H/32, W/32), on `device`. None: where the picture is."""
        with shortage_as_the_hosts():
            image = image.to(device)
            if tile == "auto":
                height, width = image.shape[-2:]
                tile = self._largest_tile(encode_peak_bytes, height, width, image)
            return encode_tiled(self.encoder, image, tile=tile, on_tile=counted("tile"))

    def decode(
        self, latent: Tensor, output_buffer: Tensor | None = None, *, tile: Tile = "auto", overlap: int | None = None
    ) -> Tensor:
        """Raw latent (B, 32, h, w) -> (B, 3, 32 h, 32 w), about -1..1.

        output_buffer: where to write, on any device. overlap: pixels, at most half a tile; None: exact tiles, else
        blended ones.
        """
        _, _, height, width = self.decode_output_shape(latent.shape)
        if tile == "auto":
            tile = self._largest_tile(_alone if overlap is not None else decode_peak_bytes, height, width, latent)
        with shortage_as_the_hosts():
            if tile is None or overlap is None:
                image = decode_tiled(self.decoder, latent, tile=tile, out=output_buffer, on_tile=counted("tile"))
            else:
                overlap = min(overlap, tile // 2)
                image = decode_blended(
                    self.decoder, latent, tile=tile, overlap=overlap, out=output_buffer, on_tile=counted("tile")
                )
        learn(self.fingerprint, latent, image, DC_AE_F32.scaling_factor)
        return image

    def decode_output_shape(self, shape: Sequence[int]) -> tuple[int, int, int, int]:
        """Of the picture for a latent of `shape`. Raises InputError for latents of another model."""
        return picture_shape(self.config, shape)

    def decode_tiled(
        self,
        latent: Tensor,
        tile_x: int | None = None,
        tile_y: int | None = None,
        overlap: int | None = None,
        tile_t: int | None = None,
        overlap_t: int | None = None,
    ) -> Tensor:
        """`decode` in exact tiles on the host's intermediate device. The host calls it for VAE Decode (Tiled), for
        other packs, and after running out of memory.

        tile_x, tile_y: in latent cells; both None: tiles of the usual size. The host passes on the rest, which is for
        blended tiles and for videos, if a caller gives it: exact tiles need none of it.
        """
        out = torch.empty(
            self.decode_output_shape(latent.shape),
            dtype=comfy.model_management.intermediate_dtype(),
            device=comfy.model_management.intermediate_device(),
        )
        sides = [side for side in self.geometry.in_pixels((tile_y or 0, tile_x or 0)) if side]
        return self.decode(latent, out, tile=usable_tile(*sides or [USUAL_TILE]))

    def _largest_tile(self, peak_bytes: PeakBytes, height: int, width: int, like: Tensor) -> int | None:
        """Largest tile of at most USUAL_TILE for which the memory is free. None: the whole picture at once."""
        free = int(free_memory(self, like.device))
        return pick_tile(self.config, height, width, like.dtype, free, peak_bytes=peak_bytes, largest=USUAL_TILE)


class SanaVAE(comfy.sd.VAE):
    """The host's VAE. In two dimensions it hands tiles to the model for decoding only; encoding in tiles has this one
    method.
    """

    def encode_tiled_(self, pixel_samples: Tensor, tile_x: int = 512, tile_y: int = 512, overlap: int = 64) -> Tensor:
        """(B, 3, H, W) in 0..1 -> raw latent, in exact tiles; overlap is not needed."""
        image = self.process_input(pixel_samples).to(self.vae_dtype)
        latent = self.first_stage_model.encode(image, device=self.device, tile=usable_tile(tile_x, tile_y))
        return latent.to(self.output_device, self.vae_output_dtype())


@contextmanager
def shortage_as_the_hosts() -> Iterator[None]:
    """Tell the host of a shortage of memory by the error that it knows, which makes it try again in tiles: PyTorch has
    that type for CUDA alone.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if out_of_memory(error) and not comfy.model_management.is_oom(error):
            raise comfy.model_management.OOM_EXCEPTION(str(error) or "out of memory") from error
        raise


def picture_shape(config: AutoencoderConfig, shape: Sequence[int]) -> tuple[int, int, int, int]:
    """Shape (B, 32, h, w) of a latent -> (B, 3, 32 h, 32 w) of its picture. Raises InputError for other latents."""
    channels = config.geometry.channels
    if len(shape) != 4 or shape[1] != channels:
        raise InputError(
            f"this VAE is SANA's DC-AE, which decodes latents (B, {channels}, h, w), got {tuple(shape)}: they come "
            "from another model"
        )
    return shape[0], 3, *config.geometry.in_pixels(shape)


def usable_tile(*sides: int) -> int:
    """The smaller side, made a multiple of 32 from 128: the host's nodes offer any from 64."""
    return max(MIN_TILE, min(sides) // DC_AE_F32.downscale * DC_AE_F32.downscale)


def free_memory(model: torch.nn.Module, device: torch.device) -> float:
    """Bytes that the host can give a loaded model on `device`: unused ones, and weights that it can drop at once."""
    loaded = comfy.model_management.loaded_models()
    patcher = next((patcher for patcher in loaded if getattr(patcher, "model", None) is model), None)
    return (patcher or comfy.model_management).get_free_memory(device)


def decode_memory(
    config: AutoencoderConfig, shape: Sequence[int], dtype: torch.dtype, tile: int = USUAL_TILE, blended: bool = False
) -> int:
    """Bytes besides the weights to decode a latent of `shape` in tiles."""
    _, _, height, width = picture_shape(config, shape)
    tile = usable_tile(tile or USUAL_TILE)
    return int(MARGIN * (_alone if blended else decode_peak_bytes)(config, height, width, tile, dtype))


def encode_memory(config: AutoencoderConfig, shape: Sequence[int], dtype: torch.dtype) -> int:
    """Bytes besides the weights to encode a picture of `shape` (B, 3, H, W) in tiles of the usual size, the picture
    included.

    Raises InputError for a picture smaller than a latent cell.
    """
    _, channels, height, width = shape
    cell = config.geometry.downscale
    if min(height, width) < cell:  # the host has cut them down to multiples
        raise InputError(f"SANA's autoencoder encodes pictures of at least {cell} x {cell} pixels: enlarge this one")
    picture = channels * height * width * dtype.itemsize
    return int(MARGIN * encode_peak_bytes(config, height, width, USUAL_TILE, dtype)) + picture


def _alone(
    config: AutoencoderConfig, height: int, width: int, tile: int | None, dtype: torch.dtype, batch: int = 1
) -> int:
    """Bytes to decode one tile through the whole network."""
    return decode_peak_bytes(config, min(height, tile or height), min(width, tile or width), None, dtype)
