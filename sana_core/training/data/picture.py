"""A picture that is somewhere in a file. Nothing but its header is decoded until it is loaded."""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ...errors import InputError
from ...pictures.modes import rgb

KINDS = ("PNG", "JPEG", "WEBP")  # as Pillow calls them
ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
LARGEST = 1 << 30  # bytes of a picture
ORIENTATION = 0x0112  # tag of EXIF
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (5, 6, 7, 8)


@dataclass(frozen=True)
class Stored:
    """Bytes on disk: a whole file, or the part of one that a member of a tar takes."""

    path: Path
    offset: int = 0
    size: int | None = None

    def read(self, largest: int = LARGEST) -> bytes:
        """The bytes. Raises InputError."""
        try:
            with self.path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size if self.size is None else self.size
                if size > largest:
                    raise InputError(f"it has {size >> 20} MiB, at most {largest >> 20} are read")
                file.seek(self.offset)
                content = file.read(size)
        except (OSError, ValueError) as error:  # ValueError: a name that no file can have
            if isinstance(error, InputError):
                raise
            raise InputError(f"it cannot be read ({getattr(error, 'strerror', None) or error})") from error
        if len(content) < size:
            raise InputError("its file has become shorter")
        return content


@dataclass(frozen=True, kw_only=True)
class Picture:
    """width, height: upright, as its EXIF data says. digest: of its bytes, so that a changed picture is a new one."""

    source: Stored
    width: int
    height: int
    digest: str

    def load(self) -> Image.Image:
        """Decode it: RGB, upright, what is transparent on white. Raises InputError, also if it is not the same any
        more.
        """
        content = self.source.read()
        if digest(content) != self.digest:
            raise InputError("it has changed since the data set was read")
        return decoded(content)


def measured(source: Stored) -> Picture:
    """Its size, from the header alone, and its digest. Raises InputError for what is no picture."""
    content = source.read()
    with opened(content) as picture:
        width, height = picture.size
        if orientation(picture) in SIDEWAYS:
            width, height = height, width
    return Picture(source=source, width=width, height=height, digest=digest(content))


def digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=20).hexdigest()


def opened(content: bytes) -> Image.Image:
    """A picture whose header is read. Raises InputError."""
    try:
        picture = Image.open(io.BytesIO(content), formats=KINDS)
    except Image.DecompressionBombError as error:
        raise InputError("it has too many pixels: scale it down") from error
    except Exception as error:  # Pillow's readers raise many types for damaged files
        raise InputError("it is no PNG, JPEG or WebP picture") from error
    if min(picture.size) < 1:
        raise InputError("it has no pixels")
    return picture


def orientation(picture: Image.Image) -> int:
    """What EXIF says of it, as far as that stands before the pixels; 1 (upright) for none.

    Not by PNG's own `getexif`, which decodes all pixels to look behind them.
    """
    try:
        return int(Image.Image.getexif(picture).get(ORIENTATION, 1))
    except Exception:  # of many types, for damaged data; the pixels are sound
        return 1


def decoded(content: bytes) -> Image.Image:
    """RGB, upright, what is transparent on white. Raises InputError."""
    with opened(content) as picture:
        turn = UPRIGHT.get(orientation(picture))
        try:
            picture.load()
        except Exception as error:  # as above
            raise InputError(f"its pixels cannot be decoded ({error})") from error
        flat = rgb(_on_white(picture))
    return flat if turn is None else flat.transpose(turn)


def _on_white(picture: Image.Image) -> Image.Image:
    transparent = picture.mode in ("LA", "PA", "RGBA") or "transparency" in picture.info
    if not transparent or picture.mode.startswith(("I", "F")):
        return picture
    try:
        coloured = picture.convert("RGBA")
    except Exception as error:
        raise InputError(f"its transparency cannot be read ({error})") from error
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), coloured)
