"""Picture files by the ending of their names, each with a record of how the picture was made."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from ..errors import InputError, shortened
from ..whole_files import explained, whole_file
from .files import parameters_text, save_png

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
QUALITY = 95  # of JPEG and WebP
EXIF_SIZE = 60_000  # bytes; a JPEG has room for 64 KiB
LONGEST_PROMPT = 1_500  # characters of a prompt in a record that would be too large
# Tags of EXIF
IMAGE_DESCRIPTION, EXIF_FOLDER, USER_COMMENT = 0x010E, 0x8769, 0x9286


def save_picture(picture: Image.Image, path: Path, record: dict[str, Any], quality: int | None = None) -> None:
    """Write the file in one go, as `picture_bytes` makes it. Raises InputError."""
    content = picture_bytes(picture, path.suffix, record, quality)
    with explained(path), whole_file(path) as partial:
        partial.write_bytes(content)


def picture_bytes(picture: Image.Image, suffix: str, record: dict[str, Any], quality: int | None = None) -> bytes:
    """The content of a picture file of an ending in FORMATS. Raises InputError for what the format cannot hold.

    A PNG has its record as text under `sana` and `parameters`. JPEG and WebP have the same texts in EXIF.
    """
    kind, file = FORMATS[suffix.lower()], BytesIO()
    try:
        if kind == "PNG":
            save_png(picture, file, record)
        else:
            picture.save(file, kind, quality=QUALITY if quality is None else quality, exif=exif_bytes(record))
    except (OSError, ValueError) as error:  # Pillow's encoders raise both, such as for a size that WebP has not
        raise InputError(f"no {kind} can be made of the picture ({error}): choose another format") from error
    return file.getvalue()


def exif_bytes(record: dict[str, Any]) -> bytes:
    """The settings as stable-diffusion-webui writes them, in UserComment, and as JSON in ImageDescription.

    The prompts of a record that has no room are shortened.
    """
    exif = _exif(record)
    if len(exif) <= EXIF_SIZE:
        return exif
    prompts = {name: shortened(record[name], LONGEST_PROMPT) for name in ("prompt", "negative_prompt")}
    return _exif(record | prompts)


def _exif(record: dict[str, Any]) -> bytes:
    exif = Image.Exif()  # big-endian, as UTF-16 in it has to be
    exif[IMAGE_DESCRIPTION] = json.dumps(record)
    comment = b"UNICODE\0" + parameters_text(record).encode("utf-16-be")
    exif.get_ifd(EXIF_FOLDER)[USER_COMMENT] = comment
    return exif.tobytes()
