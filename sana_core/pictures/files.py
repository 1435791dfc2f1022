"""Picture files: opened upright, and saved as PNG with a record of how they were made."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import IO, Any

from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from ..errors import InputError
from ..styles import styled

log = logging.getLogger("sana")


def open_picture(path: str | Path) -> Image.Image:
    """A picture file, turned upright as its EXIF data says. Raises InputError."""
    try:
        with Image.open(path) as picture:
            picture.load()
            return _upright(picture, path)
    except Image.DecompressionBombError as error:
        raise InputError(f"{path} is too large a picture ({error}): scale it down first") from error
    except Exception as error:  # Pillow's readers raise many types for damaged files
        raise InputError(
            f"{path} is not a picture that can be read ({error}): give a PNG, JPEG or WebP file"
        ) from error


def _upright(picture: Image.Image, path: str | Path) -> Image.Image:
    try:
        return ImageOps.exif_transpose(picture)
    except Exception as error:  # of many types, as above; the pixels are sound
        log.warning("%s: its EXIF data cannot be read (%s), so the picture is not turned", path, error)
        return picture.copy()


def save_png(picture: Image.Image, file: Path | IO[bytes], record: dict[str, Any]) -> None:
    """Write a PNG with its settings as JSON under `sana`, and in one readable text under `parameters`."""
    info = PngInfo()
    info.add_text("sana", json.dumps(record))
    info.add_text("parameters", parameters_text(record))
    picture.save(file, "PNG", pnginfo=info)


def parameters_text(record: dict[str, Any]) -> str:
    """Prompt, negative prompt and settings in the form that stable-diffusion-webui writes and many viewers read.

    They know no styles of ours: the prompts have the words of the style in them.
    """
    prompt, negative_prompt = styled(record["prompt"], record["negative_prompt"], record.get("style"))
    negative = [f"Negative prompt: {negative_prompt}"] if negative_prompt else []
    settings = {
        "Steps": record["steps"],
        "Sampler": record["sampler"],
        "CFG scale": record["guidance_scale"],
        "Seed": record["seed"],
        "Size": f"{record['width']}x{record['height']}",
        "Model": record["model"],
        "Shift": record["shift"],
    }
    if record["batch_size"] > 1:
        settings["Batch index"] = record["batch_index"]
    return "\n".join([prompt, *negative, ", ".join(f"{name}: {value}" for name, value in settings.items())])
