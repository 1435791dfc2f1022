"""Sample sheets: many pictures in one file, to look at while a training runs."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw
from torch import Tensor

LABEL_HEIGHT = 30  # pixels below a column of pictures: two lines of the built-in font
LETTER_WIDTH = 6


def save_sheet(path: Path, rows: Sequence[Tensor], labels: Sequence[str] = (), *, columns: int = 10) -> None:
    """Write a JPEG. rows: tensors (N, 3, H, W) in -1..1 of one shape; picture i of each stands above and below one
    another.

    labels: N texts under them, or none. Wraps after `columns` pictures.
    """
    count, _, height, width = rows[0].shape
    band = len(rows) * height + (LABEL_HEIGHT if labels else 0)
    canvas = Image.new("RGB", (min(columns, count) * width, -(-count // columns) * band), "white")
    for line, pictures in enumerate(rows):
        pixels = ((pictures.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        for index in range(count):
            canvas.paste(
                Image.fromarray(pixels[index]), (index % columns * width, index // columns * band + line * height)
            )
    pen = ImageDraw.Draw(canvas)
    for index, label in enumerate(labels):
        words = textwrap.fill(printable(label), max(8, width // LETTER_WIDTH), max_lines=2, placeholder="..")
        pen.multiline_text(
            (index % columns * width + 3, index // columns * band + len(rows) * height + 2),
            words,
            fill="black",
            spacing=1,
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(path, quality=88)


def printable(text: str) -> str:
    """The built-in font has no Chinese and no emoji: show their code points."""
    return text if text.isascii() else " ".join(f"{ord(char):X}" for char in text)
