"""Pictures as tensors and as PIL images: read from any form, resized, cropped."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from ..errors import InputError
from ..geometry import DC_AE_F32
from .files import open_picture
from .modes import grey, rgb

# A tensor is (C, H, W) or (B, C, H, W) in 0..1, or uint8 in 0..255; an array is (H, W) or (H, W, C) of uint8.
Picture: TypeAlias = Image.Image | Tensor | np.ndarray | str | Path
CELL = DC_AE_F32.downscale
LIMITS = (-0.5, 2.0)  # tensors may leave 0..1 a little, as after sharp resizing; beyond, they have another range


def read_picture(picture: Picture, name: str = "picture") -> Image.Image | Tensor:
    """A picture in any form -> PIL, or a float32 tensor (B, C, H, W) in about 0..1. Raises InputError."""
    if isinstance(picture, (str, Path)):
        return open_picture(picture)
    if isinstance(picture, Image.Image):
        return picture
    if isinstance(picture, np.ndarray):
        return _from_array(picture, name)
    if isinstance(picture, Tensor):
        return _from_tensor(picture, name)
    many = " (several pictures: stack them as one tensor (B, C, H, W))" if isinstance(picture, (list, tuple)) else ""
    raise InputError(
        f"a {name} is a PIL picture, a tensor, a uint8 array or a file name, got {type(picture).__name__}{many}"
    )


def to_pil(image: Tensor) -> list[Image.Image]:
    """(B, 3, H, W) in 0..1 -> one picture per item."""
    pixels = (image * 255.0).round().to("cpu", torch.uint8).permute(0, 2, 3, 1)
    return [Image.fromarray(item.numpy()) for item in pixels]


def natural_size(latents: Tensor | None, image: Image.Image | Tensor | None) -> tuple[int | None, int | None]:
    """(width, height) in pixels of the latents, or of the picture cut down to whole latent cells, or None each."""
    if latents is not None and latents.ndim == 4:
        height, width = DC_AE_F32.in_pixels(latents.shape)
        return width, height
    if image is None:
        return None, None
    width, height = image.size if isinstance(image, Image.Image) else (image.shape[-1], image.shape[-2])
    return max(width // CELL, 1) * CELL, max(height // CELL, 1) * CELL


def fitted_picture(picture: Picture, width: int, height: int) -> Tensor:
    """A picture at the size of the run -> (B, 3, height, width), float32, in 0..1.

    PIL pictures, arrays and files are resized and cropped at the centre; transparency is left out. Tensors have
    that size, or are larger by less than a latent cell and are cropped at the centre. Raises InputError.
    """
    picture = read_picture(picture)
    if isinstance(picture, Image.Image):
        picture = _resized(rgb(picture), width, height).permute(2, 0, 1)
    return _cropped(picture, 3, width, height, "picture")


def picture_tensor(picture: Picture, width: int, height: int) -> Tensor:
    """`fitted_picture` in -1..1, as the autoencoder takes it."""
    return fitted_picture(picture, width, height) * 2.0 - 1.0


def fitted_mask(mask: Picture, width: int, height: int) -> Tensor:
    """A mask at the size of the run -> (B, 1, height, width), float32, in 0..1, bright where a picture is redrawn.

    Fitted as in `fitted_picture`; transparent pixels count as black. Raises InputError.
    """
    mask = read_picture(mask, "mask")
    if isinstance(mask, Image.Image):
        mask = _resized(grey(mask), width, height)[None]
    return _cropped(mask, 1, width, height, "mask")


def mask_latents(mask: Picture, width: int, height: int) -> Tensor:
    """Where a picture is redrawn -> (B, 1, h, w) of 0 and 1 on the latent grid.

    mask: as in `fitted_mask`. A latent cell is redrawn if any of its 32 x 32 pixels is above one half. Raises
    InputError.
    """
    return F.max_pool2d((fitted_mask(mask, width, height) > 0.5).float(), CELL)


def _from_array(array: np.ndarray, name: str) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise InputError(
            f"a {name} as an array is (H, W) or (H, W, C) of uint8, got {array.shape} of {array.dtype}: "
            "give a tensor (C, H, W) in 0..1 for other number types"
        )
    return Image.fromarray(np.ascontiguousarray(array[:, :, 0] if array.shape[2:] == (1,) else array))


def _from_tensor(tensor: Tensor, name: str) -> Tensor:
    tensor = tensor.detach()
    if tensor.dtype == torch.uint8:
        tensor = tensor.float() / 255.0
    elif not (tensor.is_floating_point() or tensor.dtype == torch.bool):
        raise InputError(f"a {name} tensor holds floating-point numbers in 0..1 or uint8, got {tensor.dtype}")
    tensor = tensor.float()
    if tensor.numel():
        low, high = (value.item() for value in tensor.aminmax())
        if not (LIMITS[0] <= low and high <= LIMITS[1]):
            raise InputError(f"a {name} tensor holds numbers in 0..1, got {low:g} to {high:g}")
    return tensor[None] if tensor.ndim == 3 else tensor


def _resized(picture: Image.Image, width: int, height: int) -> Tensor:
    """(height, width, 3) or (height, width), float32, in 0..1."""
    return torch.from_numpy(np.array(ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS))).float() / 255.0


def _cropped(tensor: Tensor, channels: int, width: int, height: int, name: str) -> Tensor:
    tensor = tensor[None] if tensor.ndim == 3 else tensor
    if tensor.ndim == 4 and len(tensor):
        top, left = (tensor.shape[-2] - height) // 2, (tensor.shape[-1] - width) // 2
        cropped = tensor[..., max(top, 0) : max(top, 0) + height, max(left, 0) : max(left, 0) + width]
        if max(top, left) < CELL // 2 and cropped.shape[1:] == (channels, height, width):
            return cropped
    raise InputError(
        f"a {name} tensor is (B, {channels}, {height}, {width}) here, got {tuple(tensor.shape)}: resize it first"
    )
