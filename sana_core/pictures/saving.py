"""Picture files by the ending of their names, each with a record of how the picture was made."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from PIL import Image

from ..errors import InputError, shortened
from .files import parameters_text, save_png

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
QUALITY = 95  # of JPEG and WebP
EXIF_SIZE = 60_000  # bytes; a JPEG has room for 64 KiB
LONGEST_PROMPT = 1_500  # characters of a prompt in a record that would be too large
# Tags of EXIF
IMAGE_DESCRIPTION, EXIF_FOLDER, USER_COMMENT = 0x010E, 0x8769, 0x9286


def save_picture(picture: Image.Image, path: Path, record: dict[str, Any], quality: int | None = None) -> None:
    """Write the file in one go, as `picture_bytes` makes it. Raises InputError."""
    with whole_file(path) as partial:
        _save(picture, partial, path.suffix, record, quality)


def picture_bytes(picture: Image.Image, suffix: str, record: dict[str, Any], quality: int | None = None) -> bytes:
    """The content of a picture file of an ending in FORMATS.

    A PNG has its record as text under `sana` and `parameters`. JPEG and WebP have the same texts in EXIF.
    """
    file = BytesIO()
    _save(picture, file, suffix, record, quality)
    return file.getvalue()


def _save(
    picture: Image.Image, file: Path | IO[bytes], suffix: str, record: dict[str, Any], quality: int | None
) -> None:
    kind = FORMATS[suffix.lower()]
    if kind == "PNG":
        save_png(picture, file, record)
    else:
        picture.save(file, kind, quality=QUALITY if quality is None else quality, exif=exif_bytes(record))


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Where to write a file that takes the name `path` at the end of the block: another one of this name stays until
    then. Raises InputError.
    """
    partial = path.with_name(f".{secrets.token_hex(8)}{path.suffix}")
    try:
        yield partial
        os.replace(partial, path)
    except InputError:  # about another file
        raise
    except (OSError, ValueError) as error:  # Pillow's encoders raise both
        raise InputError(f"{path} cannot be written ({getattr(error, 'strerror', None) or error})") from error
    finally:
        with suppress(OSError):
            partial.unlink()


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
