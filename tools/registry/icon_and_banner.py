"""Draw the registry's icon and banner, pictures of the embedded model: `python tools/registry/icon_and_banner.py`."""

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the script runs from a checkout, where sana_core is not installed

from sana_core import load_pipeline  # noqa: E402

ICON = 400  # side; the registry takes no larger one
BANNER = (1344, 576)  # 21:9
COLUMNS = 7
GROUND = "#1d222b"
ICON_PROMPT = "a fox"
PROMPTS = (
    "a red apple", "a rocket", "a butterfly", "a penguin", "a sunflower", "a guitar", "a sailboat",
    "a strawberry", "a robot", "a pear", "an owl", "a castle", "a tree", "a red car",
)  # fmt: skip


def icon(picture):
    """The picture in a rounded square."""
    mask = Image.new("L", (ICON, ICON))
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, ICON - 1, ICON - 1), ICON // 8, 255)
    whole = picture.resize((ICON, ICON), Image.Resampling.LANCZOS)
    whole.putalpha(mask)
    return whole


def banner(pictures):
    """A row of pictures, the name, and another row."""
    whole, side = Image.new("RGB", BANNER, GROUND), BANNER[0] // COLUMNS
    for index, picture in enumerate(pictures):
        row, column = divmod(index, COLUMNS)
        place = (column * side, row * (BANNER[1] - side))
        whole.paste(picture.resize((side, side), Image.Resampling.LANCZOS), place)
    draw, (middle, height) = ImageDraw.Draw(whole), (BANNER[0] // 2, BANNER[1] // 2)
    draw.text((middle, height - 26), "SANA for ComfyUI", "white", ImageFont.load_default(88), anchor="mm")
    words = "text to image, with a model small enough to come along"
    draw.text((middle, height + 52), words, "white", ImageFont.load_default(34), anchor="mm")
    return whole


def main():
    nano = load_pipeline("nano")
    icon(nano(ICON_PROMPT, seed=1)[0]).save(ROOT / "docs" / "icon.png", optimize=True)
    pictures = [nano(prompt, seed=1)[0] for prompt in PROMPTS]
    banner(pictures).save(ROOT / "docs" / "banner.png", optimize=True)


if __name__ == "__main__":
    main()
