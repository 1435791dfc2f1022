"""Picture files with their metadata, and the small files of previews."""

from __future__ import annotations

import functools
import io
from pathlib import Path

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save

from sana_core.pictures.control import control_picture
from sana_core.pictures.images import fitted_mask, fitted_picture
from sana_core.pictures.preview import INPUTS, OUTPUTS, read_map
from sana_core.pictures.tiny_decoder import TinyDecoder, load_tiny_decoder

from ..target import Files, Target

SIZE = 64  # pixels a side, as the picture is used
LARGEST = 1 << 20  # pixels of a picture that is read


def png(mode: str, **options) -> bytes:
    info = PngInfo()
    info.add_text("parameters", "a cat\nSteps: 2")
    info.add_itxt("sana", '{"prompt": "a cat"}', zip=True)
    return encoded(mode, "PNG", pnginfo=info, **options)


def encoded(mode: str, kind: str, **options) -> bytes:
    out = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a cat"
    Image.new(mode, (24, 16), 1).save(out, kind, exif=exif, **options)
    return out.getvalue()


@functools.cache
def pictures() -> list[Files]:
    modes = ("RGB", "RGBA", "L", "LA", "P", "I;16", "1")
    return [
        *({"picture.png": png(mode)} for mode in modes),
        {"picture.png": png("P", transparency=0)},
        {"picture.jpg": encoded("RGB", "JPEG")},
        {"picture.webp": encoded("RGB", "WEBP")},
    ]


@functools.cache
def previews() -> list[Files]:
    decoder = {
        key: torch.zeros(tensor.shape, dtype=torch.float16) for key, tensor in TinyDecoder().state_dict().items()
    }
    return [
        {"tsd.safetensors": save(decoder)},
        *[{"map.safetensors": save({"weight": torch.zeros(INPUTS + 1, OUTPUTS)})}] * 8,
    ]


def read_picture(folder: Path) -> None:
    path = next(folder.iterdir())
    if _pixels(path) > LARGEST:  # a damaged size; every picture may unpack to the limit that Pillow sets
        return
    fitted_picture(path, SIZE, SIZE)
    fitted_mask(path, SIZE, SIZE)
    control_picture(path, SIZE, SIZE)


def _pixels(path: Path) -> int:
    try:
        with Image.open(path) as picture:
            return picture.width * picture.height
    except Exception:  # what is damaged is for the reader to say
        return 0


def read_preview(folder: Path) -> None:
    path = next(folder.iterdir())
    if path.name.startswith("map"):
        read_map(path).picture(torch.zeros(1, 32, 2, 2))
    else:
        load_tiny_decoder(path)


TARGETS = (
    Target(name="picture", seeds=pictures, read=read_picture, room=64 << 20),
    Target(name="preview", seeds=previews, read=read_preview),
)
