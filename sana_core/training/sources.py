"""The networks of a training from their files, each loaded when it is needed."""

from __future__ import annotations

import gc
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from ..checkpoint.files import component_folder
from ..checkpoint.load import load_autoencoder, load_transformer
from ..dcae.autoencoder import DCAE
from ..dcae.memory import auto_tile
from ..device import usable
from ..pictures.images import to_pil
from ..pipeline.memory import with_smaller_tiles
from ..pipeline.offload import on_device
from ..sources import PipelineFiles
from ..text.load import load_text_encoder
from ..transformer.model import SanaTransformer
from .data.fingerprint import file_fingerprint
from .material import EncodePicture, Encoders, EncodeTexts


class TrainingNetworks(Protocol):
    """What a training needs of the networks it begins with: those of files, or of a host."""

    def base(self) -> str:
        """What tells this transformer from others."""
        ...

    def encoders(self) -> Encoders: ...

    def transformer(
        self, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> SanaTransformer: ...

    def decode(self, latents: Tensor) -> list[Image.Image]:
        """Latents of about unit variance -> pictures, for the samples."""
        ...


class TrainingFiles:
    """Files of the three networks. device: where they compute."""

    def __init__(
        self,
        files: PipelineFiles,
        device: torch.device,
        *,
        variant: str | None = None,
        trained_precision: str | None = None,
    ) -> None:
        self.files, self.device = files, device
        self.variant, self.trained_precision = variant, trained_precision
        self.dtype = computed_dtype(device)
        self._decoder: DCAE | None = None

    def base(self) -> str:
        return file_fingerprint(self.files.transformer)

    @property
    def autocast(self) -> torch.dtype | None:
        return None if self.dtype == torch.float32 else self.dtype

    def transformer(
        self, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> SanaTransformer:
        """dtype: of its weights; None: as networks compute here."""
        return load_transformer(
            self.files.transformer,
            device=device or self.device,
            dtype=dtype or self.dtype,
            variant=self.variant,
            trained_precision=self.trained_precision,
        )

    def encoders(self, instruction: str | None = "default") -> Encoders:
        text, picture = self.files.text_encoder, self.files.autoencoder
        own = [component_folder(text, "text_encoder"), *([self.files.tokenizer] if self.files.tokenizer else [])]
        dtype = str(self.dtype)
        return Encoders(
            text=f"{file_fingerprint(*own)} {dtype}",
            picture=f"{file_fingerprint(component_folder(picture, 'vae'))} {dtype}",
            open_text=self._open_text,
            open_picture=self._open_picture,
            instruction=instruction,
        )

    def autoencoder(self, device: torch.device | str) -> DCAE:
        return load_autoencoder(self.files.autoencoder, device=device, dtype=self.dtype)

    def decode(self, latents: Tensor) -> list[Image.Image]:
        """The autoencoder is on the CPU between its turns."""
        network = self._decoder = self._decoder or self.autoencoder("cpu")
        with torch.no_grad(), on_device(self.device, network):
            latents = latents.to(self.device, self.dtype)
            height, width = network.geometry.in_pixels(latents.shape)
            tile = auto_tile(network.config, height, width, latents)
            pictures = [
                with_smaller_tiles(lambda tile, latent=latent: network.decode(latent, tile=tile).float(), tile)
                for latent in latents.split(1)
            ]
        return to_pil((torch.cat(pictures) * 0.5 + 0.5).clamp(0.0, 1.0))

    def _open_text(self) -> EncodeTexts:
        network = load_text_encoder(
            self.files.text_encoder, tokenizer=self.files.tokenizer, device=self.device, dtype=self.dtype
        )
        return lambda texts, instruction: network.encode(texts, instruction=instruction)

    def _open_picture(self) -> EncodePicture:
        network = self.autoencoder(self.device)

        @torch.no_grad()
        def encode(pixels: Tensor) -> Tensor:
            pixels = pixels.to(self.device, self.dtype)
            height, width = pixels.shape[-2:]
            tile = auto_tile(network.config, height, width, pixels, encode=True)
            return with_smaller_tiles(lambda tile: network.encode(pixels, tile=tile), tile)

        return encode


def computed_dtype(device: torch.device) -> torch.dtype:
    """In which number type networks compute while they are trained."""
    return torch.float32 if device.type == "cpu" else usable(torch.bfloat16, device)


def give_back(device: torch.device) -> None:
    """The memory of networks that are not needed any more, to the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
