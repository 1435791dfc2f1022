"""Draw the pictures of the packaged templates: `python tools/thumbnails.py`.

The quick start's shows what it draws. The released model's is a diagram of its way from prompt to picture: a picture by any other model
would promise something else.
"""

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the script runs from a checkout, where sana_core is not installed

from sana_core import load_pipeline  # noqa: E402

SIDE = 512
PROMPTS = ("a red apple", "a cute cat", "a rocket", "a butterfly")
STATIONS = {
    "prompt": "#45505e",
    "Gemma-2 2B": "#3a7a4a",
    "Linear DiT 1.6B, 20 steps": "#7a5a9a",
    "DC-AE, 32 x": "#8a6a3a",
    "1024 x 1024": "#3f789e",
}


def quick_start():
    """Four pictures by the embedded model."""
    sheet, half = Image.new("RGB", (SIDE, SIDE)), SIDE // 2
    for index, picture in enumerate(load_pipeline("nano")(list(PROMPTS), seed=1)):
        sheet.paste(picture.resize((half, half), Image.Resampling.LANCZOS), (index % 2 * half, index // 2 * half))
    return sheet


def diagram(title):
    """The stations one below the other."""
    picture = Image.new("RGB", (SIDE, SIDE), "#1d222b")
    draw = ImageDraw.Draw(picture)
    middle, top, height, gap = SIDE // 2, 104, 56, 22
    draw.text((middle, 56), title, "white", ImageFont.load_default(44), anchor="mm")
    for index, (name, colour) in enumerate(STATIONS.items()):
        y = top + index * (height + gap)
        if index:
            draw.line((middle, y - gap, middle, y), "#9aa4b2", 4)
        draw.rounded_rectangle((76, y, SIDE - 76, y + height), 14, colour)
        draw.text((middle, y + height // 2), name, "white", ImageFont.load_default(26), anchor="mm")
    return picture


def main():
    for name, picture in (("SANA-quick-start", quick_start()), ("SANA-1.6B-text-to-image-1024", diagram("SANA 1.6B"))):
        picture.save(ROOT / "workflows" / f"{name}.jpg", quality=90)


if __name__ == "__main__":
    main()
