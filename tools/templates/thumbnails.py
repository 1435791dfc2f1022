"""Draw the pictures of the packaged templates: `python tools/templates/thumbnails.py`.

The embedded model draws all of them, and the cards of other models say so. The title is at the bottom: the template
browser puts its badge at the top.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the script runs from a checkout, where sana_core is not installed

from sana_core import apply_lora, load_lora, load_pipeline  # noqa: E402
from sana_core.sources import NANO  # noqa: E402

SIDE, BAND = 512, 118
OWN, OTHER = "drawn by the embedded model", "illustration by the embedded model"
Card = tuple[str, str, list[Image.Image]]  # template, title, one to four pictures


def cards() -> Iterator[Card]:
    """All of them."""
    nano, sprint = load_pipeline("nano"), load_pipeline("nano-sprint")

    def draw(*prompts: str, **settings) -> list[Image.Image]:
        return nano(list(prompts), seed=1, **settings)

    yield "SANA-quick-start", "Quick start", draw("a red apple", "a fox", "a rocket", "a butterfly")
    yield "SANA-quick-start-Sprint", "Quick start: Sprint", sprint(["a rocket", "a fox", "a guitar", "a pear"], seed=1)
    yield "SANA-1.6B-text-to-image-1024", "SANA 1.6B, 1024 px", draw("a fox")
    yield "SANA-1.5-text-to-image-1024", "SANA 1.5, 1024 px", draw("an owl")
    yield "SANA-text-to-image.app", "SANA as a form", draw("a butterfly")
    yield "SANA-1.6B-text-to-image-2K", "SANA 1.6B, 2048 px", draw("a castle")
    yield "SANA-1.6B-text-to-image-4K", "SANA 1.6B, 4096 px", draw("a sailboat")
    yield "SANA-Sprint-text-to-image", "SANA-Sprint, 2 steps", sprint("a penguin", seed=1)
    for size, prompt in ((8, "a tree"), (6, "a sunflower"), (4, "a strawberry")):
        yield f"SANA-on-{size}-GB", f"SANA on {size} GB", draw(prompt)
    many = nano(["a butterfly"] * 4, seeds=[2, 4, 5, 6], guidance_scale=1.0)  # without guidance they differ
    yield "SANA-best-of-N", "Best of N", [*many[:2], _framed(many[2]), many[3]]
    yield "SANA-PAG", "Perturbed attention", [*draw("a robot"), *draw("a robot", pag_scale=2.0)]
    apple = draw("a red apple")[0]
    redrawn = draw("a pear", image=apple, strength=0.75)[0]
    yield "SANA-image-to-image", "Image to image", [apple, redrawn]
    redrawn = sprint("a tangerine", seed=1, image=apple, strength=0.75)[0]
    yield "SANA-Sprint-image-to-image", "Sprint: image to image", [apple, redrawn]
    yield "SANA-inpaint", "Inpaint", _right_half(nano, draw("a house")[0], "a house and a tree")
    yield "SANA-outpaint", "Outpaint", _right_half(nano, apple, "a red apple")
    lines = _edges(draw("a small red apple")[0])
    controlled = load_pipeline("nano", controlnet=NANO / "controlnet" / "sana_nano_controlnet.safetensors")
    guided = [controlled(thing, seed=1, control_image=lines)[0] for thing in ("a tangerine", "a peach")]
    yield "SANA-quick-start-ControlNet", "Quick start: ControlNet", [draw("a small red apple")[0], lines, *guided]
    yield "SANA-ControlNet", "ControlNet", [lines, guided[0]]
    plain = draw("a sunflower", "a guitar")
    apply_lora(nano.transformer, load_lora(NANO / "loras" / "sana_nano_style.safetensors"), 1.0)
    styled = draw("a sunflower, monochrome", "a guitar, monochrome")
    yield "SANA-quick-start-LoRA", "Quick start: LoRA", [*plain, *styled]
    yield "SANA-LoRA", "LoRA", [plain[0], styled[0]]
    yield "SANA-train-LoRA", "Train a LoRA", [*_examples("zorble", 3), _zorble()]


def _framed(picture: Image.Image) -> Image.Image:
    return ImageOps.expand(ImageOps.crop(picture, 8), 8, "#2e9e4f")


def _examples(name: str, count: int) -> list[Image.Image]:
    return [Image.open(path) for path in sorted((NANO / "pictures" / name).glob("*.webp"))[:count]]


def _zorble() -> Image.Image:
    """By the LoRA that has learnt it."""
    nano = load_pipeline("nano")
    apply_lora(nano.transformer, load_lora(NANO / "loras" / "sana_nano_subject.safetensors"), 1.0)
    return nano("a zorble", seed=1)[0]


def _edges(picture: Image.Image) -> Image.Image:
    edges = ImageOps.crop(picture.getchannel("G").filter(ImageFilter.FIND_EDGES), 2)
    return ImageOps.expand(edges.point(lambda value: 255 * (value > 100)), 2).convert("RGB")


def _right_half(nano, picture: Image.Image, prompt: str) -> list[Image.Image]:
    """A picture without its right half, and with a new one."""
    half = (128, 0, 256, 256)
    mask = Image.new("L", picture.size)
    mask.paste(255, half)
    covered = picture.copy()
    covered.paste((128, 128, 128), half)
    return [covered, nano(prompt, seed=2, image=picture, mask=mask)[0]]


def card(template: str, title: str, pictures: list[Image.Image]) -> Image.Image:
    """The pictures above the title."""
    whole, height = Image.new("RGB", (SIDE, SIDE), "white"), SIDE - BAND
    columns = 1 if len(pictures) == 1 else 2
    rows = (len(pictures) + 1) // 2
    side = min(SIDE // columns, height // rows)
    for index, picture in enumerate(pictures):
        left = (SIDE - columns * side) // 2 + index % columns * side
        top = (height - rows * side) // 2 + index // columns * side
        whole.paste(picture.resize((side, side), Image.Resampling.LANCZOS), (left, top))
    draw = ImageDraw.Draw(whole)
    draw.rectangle((0, height, SIDE, SIDE), "#1d222b")
    draw.text((SIDE // 2, height + 46), title, "white", ImageFont.load_default(42), anchor="mm")
    by = OWN if "quick-start" in template or template == "SANA-train-LoRA" else OTHER
    draw.text((SIDE // 2, height + 90), by, "#9aa4b2", ImageFont.load_default(20), anchor="mm")
    return whole


def main() -> None:
    for template, title, pictures in cards():
        card(template, title, pictures).save(ROOT / "workflows" / f"{template}.jpg", quality=88)


if __name__ == "__main__":
    main()
