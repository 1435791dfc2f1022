"""A small decoder for previews, of the kind of tsd.safetensors (cake-ml/tiny-sana-preview).

Facts of the architecture: 14 layers in a row; each block adds a 1x1 shortcut to the last of three dense 3x3
convolutions and may double the size by a pixel shuffle; latents come unscaled, pictures are in -1..1 with 8 x 8 pixels
for a cell.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoint.safetensors_file import read_safetensors
from ..errors import CheckpointError
from ..geometry import DC_AE_F32

BLOCKS = (
    (32, 128, 1), (128, 128, 1), (128, 128, 1), (128, 128, 2), (128, 128, 1), (128, 128, 1), (128, 128, 1),
    (128, 64, 2), (64, 64, 1), (64, 64, 1), (64, 64, 1), (64, 32, 2), (32, 32, 1),
)  # fmt: skip
SLOPE = 0.2


class DenseBlock(nn.Module):
    """(B, n, h, w) -> (B, out, up h, up w)."""

    def __init__(self, channels: int, out: int, up: int) -> None:
        super().__init__()
        options = {"device": "meta", "dtype": torch.float32}
        self.conv_a = nn.Conv2d(channels, channels, 3, padding=1, **options)
        self.conv_b = nn.Conv2d(2 * channels, channels, 3, padding=1, **options)
        self.conv_c = nn.Conv2d(3 * channels, out * up * up, 3, padding=1, **options)
        self.conv_l = nn.Conv2d(channels, out * up * up, 1, **options)
        self.up = up

    def forward(self, x: Tensor) -> Tensor:
        a = F.leaky_relu(self.conv_a(x), SLOPE)
        b = F.leaky_relu(self.conv_b(torch.cat([x, a], 1)), SLOPE)
        y = self.conv_c(torch.cat([x, a, b], 1)) + self.conv_l(x)
        return F.leaky_relu(F.pixel_shuffle(y, self.up), SLOPE)


class TinyDecoder(nn.Sequential):
    """Latent (B, 32, h, w) of about unit variance -> (B, 3, 8 h, 8 w), about -1..1."""

    def __init__(self) -> None:
        last = nn.Conv2d(32, 3, 3, padding=1, device="meta", dtype=torch.float32)
        super().__init__(*(DenseBlock(*sizes) for sizes in BLOCKS), last)

    def forward(self, latent: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().forward(latent / DC_AE_F32.scaling_factor)


def load_tiny_decoder(path: str | Path) -> TinyDecoder:
    """From a safetensors file, on the CPU in float32. Raises CheckpointError."""
    decoder = TinyDecoder()
    expected = {key: tensor.shape for key, tensor in decoder.state_dict().items()}
    tensors, _ = read_safetensors(Path(path), meta=False)
    if {key: tensor.shape for key, tensor in tensors.items()} != expected:
        raise CheckpointError(f"{path} is no tiny decoder of SANA's latents: take tsd.safetensors of cake-ml")
    decoder.load_state_dict({key: tensor.float() for key, tensor in tensors.items()}, assign=True)
    return decoder.eval().requires_grad_(False)
