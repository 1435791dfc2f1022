"""Draw the pictures of the packaged templates: `python tools/templates/thumbnails.py`.

Those of the quick starts show what they draw. The others are diagrams of the way from prompt to picture: a picture by
any other model would promise something else.
"""

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the script runs from a checkout, where sana_core is not installed

from sana_core import apply_lora, load_lora, load_pipeline  # noqa: E402
from sana_core.sources import NANO  # noqa: E402

SIDE = 512
PROMPTS = ("a red apple", "a fox", "a rocket", "a butterfly")
PROMPT, PICTURE, EDGES = ("prompt", "#45505e"), ("your picture", "#45505e"), ("edges of a picture", "#9a4a4a")
GEMMA, DCAE, TILES = ("Gemma-2 2B", "#3a7a4a"), ("DC-AE, 32 x", "#8a6a3a"), ("DC-AE, exact tiles", "#8a6a3a")


def dit(words):
    return (f"Linear DiT {words}", "#7a5a9a")


def result(words):
    return (words, "#3f789e")


STATIONS = {  # template -> (title, boxes from top to bottom)
    "SANA-1.6B-text-to-image-1024": ("SANA 1.6B", [PROMPT, GEMMA, dit("1.6B, 20 steps"), DCAE, result("1024 x 1024")]),
    "SANA-1.5-text-to-image-1024": ("SANA 1.5", [PROMPT, GEMMA, dit("1.6B, 20 steps"), DCAE, result("1024 x 1024")]),
    "SANA-1.6B-text-to-image-2K": ("SANA 2K", [PROMPT, GEMMA, dit("1.6B, 20 steps"), TILES, result("2048 x 2048")]),
    "SANA-1.6B-text-to-image-4K": ("SANA 4K", [PROMPT, GEMMA, dit("1.6B, 20 steps"), TILES, result("4096 x 4096")]),
    "SANA-on-8-GB": ("SANA on 8 GB", [PROMPT, ("Gemma-2 2B, fp8", GEMMA[1]), dit("1.6B, int8"), DCAE,
    result("1024 x 1024")]),
    "SANA-on-6-GB": ("SANA on 6 GB", [PROMPT, ("Gemma-2 2B, fp8", GEMMA[1]), dit("1.6B, int8"), TILES,
    result("2048 x 2048")]),
    "SANA-on-4-GB": ("SANA on 4 GB", [PROMPT, ("Gemma-2 2B, 4 bits", GEMMA[1]), dit("0.6B, int8"), DCAE,
    result("1024 x 1024")]),
    "SANA-Sprint-text-to-image": ("SANA-Sprint", [PROMPT, GEMMA, dit("1.6B, 2 steps"), DCAE, result("1024 x 1024")]),
    "SANA-Sprint-image-to-image": ("Sprint: redraw", [PICTURE, DCAE, dit("1.6B, 2 steps"), DCAE, result("redrawn")]),
    "SANA-ControlNet": ("ControlNet", [EDGES, DCAE, ("ControlNet, 7 blocks", EDGES[1]), dit("1.6B, 20 steps"),
    result("along the edges")]),
    "SANA-LoRA": ("LoRA", [PROMPT, GEMMA, ("your LoRA", EDGES[1]), dit("1.6B, 20 steps"), result("in its style")]),
    "SANA-PAG": ("PAG", [PROMPT, GEMMA, dit("1.6B, 20 steps"), ("minus block 8 without attention", EDGES[1]),
    result("cleaner shapes")]),
    "SANA-image-to-image": ("Redraw", [PICTURE, DCAE, dit("1.6B, last 60 %"), DCAE, result("redrawn")]),
    "SANA-inpaint": ("Inpaint", [PICTURE, ("painted mask", EDGES[1]), dit("1.6B, 20 steps"), DCAE,
    result("repainted there")]),
    "SANA-outpaint": ("Outpaint", [PICTURE, ("padded left and right", EDGES[1]), dit("1.6B, 20 steps"), DCAE,
    result("wider")]),
}  # fmt: skip


def quick_starts():
    """(template, four pictures) of the embedded model and its add-ons."""
    nano, words = load_pipeline("nano"), list(PROMPTS)
    yield "SANA-quick-start", nano(words, seed=1)
    yield "SANA-quick-start-Sprint", load_pipeline("nano-sprint")(words[::-1], seed=1)
    plain, styled = ("a sunflower", "a guitar"), load_pipeline("nano")
    apply_lora(styled.transformer, load_lora(NANO / "loras" / "sana_nano_style.safetensors"), 1.0)
    yield (
        "SANA-quick-start-LoRA",
        [*nano(list(plain), seed=1), *styled([f"{prompt}, monochrome" for prompt in plain], seed=1)],
    )
    controlled = load_pipeline("nano", controlnet=NANO / "controlnet" / "sana_nano_controlnet.safetensors")
    apple = nano("a small red apple", seed=1)[0]
    edges = ImageOps.crop(apple.getchannel("G").filter(ImageFilter.FIND_EDGES), 2).point(
        lambda value: 255 * (value > 100)
    )
    lines, things = ImageOps.expand(edges, 2).convert("RGB"), ("a tangerine", "a peach")
    yield (
        "SANA-quick-start-ControlNet",
        [apple, lines, *(controlled(thing, seed=1, control_image=lines)[0] for thing in things)],
    )


def sheet(pictures):
    """Two by two."""
    whole, half = Image.new("RGB", (SIDE, SIDE)), SIDE // 2
    for index, picture in enumerate(pictures):
        whole.paste(picture.resize((half, half), Image.Resampling.LANCZOS), (index % 2 * half, index // 2 * half))
    return whole


def diagram(title, stations):
    """The stations one below the other."""
    picture = Image.new("RGB", (SIDE, SIDE), "#1d222b")
    draw = ImageDraw.Draw(picture)
    middle, top, height, gap = SIDE // 2, 104, 56, 22
    draw.text((middle, 56), title, "white", ImageFont.load_default(44), anchor="mm")
    for index, (name, colour) in enumerate(stations):
        y = top + index * (height + gap)
        if index:
            draw.line((middle, y - gap, middle, y), "#9aa4b2", 4)
        draw.rounded_rectangle((56, y, SIDE - 56, y + height), 14, colour)
        draw.text((middle, y + height // 2), name, "white", ImageFont.load_default(26), anchor="mm")
    return picture


def main():
    for name, pictures in quick_starts():
        sheet(pictures).save(ROOT / "workflows" / f"{name}.jpg", quality=90)
    for name, (title, stations) in STATIONS.items():
        diagram(title, stations).save(ROOT / "workflows" / f"{name}.jpg", quality=90)


if __name__ == "__main__":
    main()
