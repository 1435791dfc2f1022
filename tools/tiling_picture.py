"""Draw the picture of exact and blended tiles in the help of SANA VAE Decode (Tiled): `python tools/tiling_picture.py`.

A drawing of the embedded model, four times enlarged, goes through the embedded autoencoder and is decoded without
tiles, in exact tiles and in blended ones. The tiles have 256 pixels: the size that this autoencoder was trained on and
a quarter of the picture's side.
"""

import sys
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the script runs from a checkout, where sana_core is not installed

from sana_core import load_pipeline  # noqa: E402
from sana_core.dcae.blending import decode_blended  # noqa: E402
from sana_core.dcae.tiling import decode_tiled  # noqa: E402
from sana_core.pictures.images import picture_tensor, to_pil  # noqa: E402

PROMPT, SEED = "a penguin on a green background", 1
SIDE, TILE, OVERLAP = 1024, 256, 64
DETAIL = (416, 416, 736, 736)  # left, top, right, bottom of what is enlarged
AMPLIFIED = 8
PANEL, TEXT, GAP = 320, 44, 8


def decoded():
    """{title: picture (1, 3, 1024, 1024) in 0..1}."""
    pipeline = load_pipeline("nano")
    drawing = pipeline(PROMPT, seed=SEED)[0].resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    decoder = pipeline.autoencoder.decoder
    with torch.inference_mode():
        latent = pipeline.autoencoder.encoder(picture_tensor(drawing, SIDE, SIDE))
        pictures = {
            "without tiles": decoder(latent),
            f"exact tiles of {TILE}": decode_tiled(decoder, latent, tile=TILE),
            f"blended tiles of {TILE}": decode_blended(decoder, latent, tile=TILE, overlap=OVERLAP),
        }
    return {title: (picture * 0.5 + 0.5).clamp(0, 1) for title, picture in pictures.items()}


def column(title, picture, reference):
    """The picture, a detail, and the difference to the reference."""
    whole = to_pil(picture)[0]
    difference = (picture - reference).abs()
    panels = [whole, whole.crop(DETAIL), to_pil((difference * AMPLIFIED).clamp(0, 1))[0]]
    numbers = f"difference: mean {255 * float(difference.mean()):.1f}, max {255 * float(difference.max()):.0f} of 255"
    sheet = Image.new("RGB", (PANEL, TEXT + 3 * (PANEL + GAP)), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((0, 2), title, "black", ImageFont.load_default(20))
    draw.text((0, 26), "" if picture is reference else numbers, "#505050", ImageFont.load_default(13))
    for index, panel in enumerate(panels):
        sheet.paste(panel.resize((PANEL, PANEL), Image.Resampling.LANCZOS), (0, TEXT + index * (PANEL + GAP)))
    return sheet


def main():
    pictures = decoded()
    reference = next(iter(pictures.values()))
    columns = [column(title, picture, reference) for title, picture in pictures.items()]
    sheet = Image.new("RGB", (len(columns) * (PANEL + GAP) - GAP, columns[0].height - GAP), "white")
    for index, panels in enumerate(columns):
        sheet.paste(panels, (index * (PANEL + GAP), 0))
    middle = PANEL // 2, sheet.height - PANEL // 2
    words = f"to the right: the difference\nto this column, {AMPLIFIED} times amplified"
    ImageDraw.Draw(sheet).multiline_text(
        middle, words, "white", ImageFont.load_default(16), anchor="mm", align="center"
    )
    sheet.save(ROOT / "js" / "docs" / "tiles.jpg", quality=88)


if __name__ == "__main__":
    main()
