"""The picture that a ControlNet follows, fitted to the picture to make.

Resized bicubically, as in NVlabs/Sana `tools/controlnet/utils.py`. Pictures of another aspect ratio, which are
stretched there, are cropped at the centre, as ComfyUI's nodes do. The autoencoder turns the result into the latent of a
`ControlBranch`.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..errors import InputError
from .images import Picture, read_picture
from .modes import rgb


def control_picture(picture: Picture, width: int, height: int) -> Tensor:
    """A control picture of any size -> (B, 3, height, width), float32, in 0..1.

    picture: PIL, whose transparency is left out, a uint8 array, a file name, or a tensor (3, H, W) or
    (B, 3, H, W) in 0..1. Raises InputError.
    """
    pixels = read_picture(picture, "control picture")
    if isinstance(pixels, Image.Image):
        pixels = torch.from_numpy(np.array(rgb(pixels))).permute(2, 0, 1)[None].float() / 255.0
    if pixels.ndim != 4 or pixels.shape[1] != 3 or not pixels.numel():
        raise InputError(f"a control picture as a tensor is (B, 3, H, W), got {tuple(pixels.shape)}")
    pixels = F.interpolate(_centre_crop(pixels, width, height), (height, width), mode="bicubic", antialias=True)
    return pixels.clamp(0.0, 1.0)


def _centre_crop(pixels: Tensor, width: int, height: int) -> Tensor:
    """The largest part about the centre that has the aspect ratio width / height."""
    scale = min(pixels.shape[-1] / width, pixels.shape[-2] / height)
    crop_width, crop_height = max(round(width * scale), 1), max(round(height * scale), 1)
    left, top = (pixels.shape[-1] - crop_width) // 2, (pixels.shape[-2] - crop_height) // 2
    return pixels[..., top : top + crop_height, left : left + crop_width]
