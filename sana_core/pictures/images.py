"""Pictures as tensors, as PIL images and as PNG files that remember how they were made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ..errors import InputError
from ..geometry import DC_AE_F32

Picture: TypeAlias = Image.Image | Tensor  # a tensor: in 0..1


def to_pil(image: Tensor) -> list[Image.Image]:
    """(B, 3, H, W) in 0..1 -> one picture per item."""
    pixels = (image * 255.0).round().to("cpu", torch.uint8).permute(0, 2, 3, 1)
    return [Image.fromarray(item.numpy()) for item in pixels]


def natural_size(latents: Tensor | None, image: Picture | None) -> tuple[int | None, int | None]:
    """(width, height) in pixels of the latents, or of the picture cut down to whole latent cells, or None each."""
    if latents is not None and latents.ndim == 4:
        return latents.shape[-1] * DC_AE_F32.downscale, latents.shape[-2] * DC_AE_F32.downscale
    if image is None:
        return None, None
    width, height = image.size if isinstance(image, Image.Image) else (image.shape[-1], image.shape[-2])
    return max(width // DC_AE_F32.downscale, 1) * DC_AE_F32.downscale, max(
        height // DC_AE_F32.downscale, 1
    ) * DC_AE_F32.downscale


def open_picture(path: str | Path) -> Image.Image:
    """A picture file, turned upright as its camera says. Raises InputError."""
    try:
        with Image.open(path) as picture:
            return ImageOps.exif_transpose(picture)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(
            f"{path} is not a picture that can be read ({error}): give a PNG, JPEG or WebP file"
        ) from error


def eight_bit(picture: Image.Image) -> Image.Image:
    """A greyscale picture of 16 bits, such as a depth or edge map, in 8: Pillow's own conversions cut it off at 255
    instead.
    """
    if not picture.mode.startswith("I"):
        return picture
    return Image.fromarray((np.asarray(picture).clip(0, 65535) / 257.0).round().astype(np.uint8))


def picture_tensor(picture: Image.Image | Tensor, width: int, height: int) -> Tensor:
    """A PIL picture of any size, resized and cropped to fill width x height, or a tensor (3, H, W) or (B, 3, H, W) in
    0..1 of that size or larger by less than a latent cell, which is cropped at the centre.

    Returns (B, 3, H, W), float32, in -1..1. Raises InputError for a tensor of another shape.
    """
    if isinstance(picture, Image.Image):
        picture = _fitted(eight_bit(picture).convert("RGB"), width, height).permute(2, 0, 1)
    return _batch(picture, 3, width, height, "picture") * 2.0 - 1.0


def mask_latents(mask: Image.Image | Tensor, width: int, height: int) -> Tensor:
    """Where a picture is to be redrawn (bright) -> (B, 1, h, w) of 0 and 1 on the latent grid.

    mask: PIL of any size, or a tensor (1, H, W) or (B, 1, H, W) in 0..1, of a size as for `picture_tensor`. A latent
    cell is redrawn if any of its 32 x 32 pixels is above one half. Raises InputError for a tensor of another shape.
    """
    if isinstance(mask, Image.Image):
        mask = _fitted(eight_bit(mask).convert("L"), width, height)[None]
    return F.max_pool2d((_batch(mask, 1, width, height, "mask") > 0.5).float(), DC_AE_F32.downscale)


def save_png(picture: Image.Image, path: Path, record: dict[str, Any]) -> None:
    """Write a PNG with its settings as JSON under `sana`, and in one readable text under `parameters`."""
    info = PngInfo()
    info.add_text("sana", json.dumps(record))
    info.add_text("parameters", parameters_text(record))
    picture.save(path, pnginfo=info)


def parameters_text(record: dict[str, Any]) -> str:
    """Prompt, negative prompt and settings in the form that stable-diffusion-webui writes and many viewers read."""
    negative = [f"Negative prompt: {record['negative_prompt']}"] if record["negative_prompt"] else []
    settings = {
        "Steps": record["steps"], "Sampler": record["sampler"], "CFG scale": record["guidance_scale"], "Seed": record["seed"],
        "Size": f"{record['width']}x{record['height']}", "Model": record["model"], "Shift": record["shift"],
    }  # fmt: skip
    if record["batch_size"] > 1:
        settings["Batch index"] = record["batch_index"]
    return "\n".join([record["prompt"], *negative, ", ".join(f"{name}: {value}" for name, value in settings.items())])


def _fitted(picture: Image.Image, width: int, height: int) -> Tensor:
    """(H, W, 3) or (H, W), float32, in 0..1."""
    return torch.from_numpy(np.array(ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS))).float() / 255.0


def _batch(tensor: Tensor, channels: int, width: int, height: int, name: str) -> Tensor:
    tensor = tensor[None] if tensor.ndim == 3 else tensor
    top, left = (tensor.shape[-2] - height) // 2, (tensor.shape[-1] - width) // 2
    cropped = tensor[..., max(top, 0) : max(top, 0) + height, max(left, 0) : max(left, 0) + width]
    if max(top, left) >= DC_AE_F32.downscale // 2 or tensor.ndim != 4 or cropped.shape[1:] != (channels, height, width):
        raise InputError(
            f"a {name} tensor is (B, {channels}, {height}, {width}) here, got {tuple(tensor.shape)}: resize it first"
        )
    return cropped.float()
