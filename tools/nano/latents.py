"""The pictures that the transformer is trained on, as latents of the finished encoder, computed once."""

from __future__ import annotations

import hashlib
from dataclasses import fields

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sana_core.dcae.autoencoder import DCAE
from sana_core.geometry import DC_AE_F32
from sana_core.whole_files import whole_file

from .command import Command
from .pictures import LINE_WIDTHS, Drawings, Placed, edge_map, render

ENCODED = 64  # pictures at once


class LatentBank:
    """Latents of B scenes at any size, of about unit variance: float16 on the device, (B, 32, P/32, P/32); with `edges`
    of their edge maps.

    A size is encoded when it is first asked for. In memory only the last one is kept; WORK/latents/ keeps all, for the
    stages to come.
    """

    def __init__(
        self, autoencoder: DCAE, drawings: Drawings, scenes: Placed, command: Command, *, edges: bool = False
    ) -> None:
        self.autoencoder, self.drawings, self.scenes, self.command, self.edges = (
            autoencoder,
            drawings,
            scenes,
            command,
            edges,
        )
        self.pixels, self.latents = 0, torch.empty(0)

    def __call__(self, numbers: Tensor, pixels: int) -> Tensor:
        """Latents of the scenes `numbers`, float32."""
        if pixels != self.pixels:
            self.pixels, self.latents = pixels, self._read(pixels)
        return self.latents[numbers].float()

    def _read(self, pixels: int) -> Tensor:
        """From the file that the same encoder wrote of the same scenes, or encoded and written now."""
        path = self.command.work / "latents" / f"{pixels}_{self._digest()}.safetensors"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            with whole_file(path) as partial:
                save_file({"latents": self._encode(pixels)}, partial)
        return load_file(path)["latents"].to(self.command.device)

    def _digest(self) -> str:
        """Of everything that the latents of a size depend on."""
        tensors = [
            *self.autoencoder.encoder.state_dict().values(),
            *(getattr(self.scenes, field.name) for field in fields(Placed)),
        ]
        digest = hashlib.blake2b(f"{list(self.drawings.index)} {self.edges}".encode(), digest_size=8)
        for tensor in tensors:
            digest.update(tensor.detach().cpu().contiguous().numpy())
        return digest.hexdigest()

    @torch.no_grad()
    def _encode(self, pixels: int) -> Tensor:
        count, side = len(self.scenes.numbers), pixels // DC_AE_F32.downscale
        latents, encode = (
            torch.empty(count, 32, side, side, dtype=torch.float16),
            self.command.compiled(self.autoencoder.encode),
        )
        for part, rows in enumerate(torch.arange(count).split(ENCODED)):
            images = render(self.drawings, rows_of(self.scenes, rows), pixels)
            if self.edges:
                images = edge_map(images, LINE_WIDTHS[part % len(LINE_WIDTHS)])
            with self.command.autocast():
                latents[rows] = encode(images.contiguous(memory_format=torch.channels_last)).half().cpu()
        return latents


def rows_of(scenes: Placed, rows: Tensor) -> Placed:
    return Placed(**{field.name: getattr(scenes, field.name)[rows] for field in fields(Placed)})
