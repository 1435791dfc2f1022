"""Plain shapes in place of emoji, for the toy size: tests need no packages."""

from __future__ import annotations

import io
import math

from PIL import Image, ImageDraw

SHAPES = {  # name, Chinese name, emoji, colour, corners (0: a disc)
    "red disc": ("\u7ea2\u5706", "\U0001f534", (220, 40, 40), 0),
    "blue square": ("\u84dd\u65b9\u5757", "\U0001f7e6", (40, 90, 220), 4),
    "green triangle": ("\u7eff\u4e09\u89d2", "\U0001f4d7", (40, 160, 60), 3),
    "yellow star": ("\u9ec4\u661f\u661f", "\u2b50", (240, 200, 30), 10),
    "orange diamond": ("\u6a59\u83f1\u5f62", "\U0001f536", (240, 140, 30), -4),
    "purple hexagon": ("\u7d2b\u516d\u89d2\u5f62", "\U0001f7ea", (140, 60, 190), 6),
}
OTHERS = {
    "\u2699": ((120, 120, 120), 8),
    "\U0001f7e4": ((120, 70, 40), 0),
    "\u2b1b": ((20, 20, 20), 4),
    "\U0001f53a": ((230, 60, 60), 3),
}
TOY_CONCEPTS = [
    {
        "name": name, "emoji": emoji, "aliases": [name.split()[1]],
        "keywords": [f"{name.split()[0]}ish", f"{name.split()[1]}let"],
        "zh": zh, "zh_aliases": [], "zh_keywords": [],
    }
    for name, (zh, emoji, _, _) in SHAPES.items()
]  # fmt: skip


class Shapes:
    """The shapes in a style: "flat", "shaded" (a light upper half) or anything else (an outline)."""

    def __init__(self, style: str) -> None:
        self.style = style
        self.shapes = {emoji: (colour, corners) for _, emoji, colour, corners in SHAPES.values()} | OTHERS

    @staticmethod
    def others() -> list[str]:
        return list(OTHERS)

    def has(self, emoji: str) -> bool:
        return emoji in self.shapes

    def webp(self, emoji: str, pixels: int) -> bytes:
        buffer = io.BytesIO()
        self.draw(emoji, pixels).save(buffer, "WEBP", lossless=True)
        return buffer.getvalue()

    def draw(self, emoji: str, pixels: int) -> Image.Image:
        """RGBA."""
        colour, corners = self.shapes[emoji]
        large = Image.new("RGBA", (4 * pixels, 4 * pixels))
        pen, points = ImageDraw.Draw(large), outline(corners, 4 * pixels)
        if self.style == "flat":
            pen.polygon(points, fill=colour)
        elif self.style == "shaded":
            pen.polygon(points, fill=colour)
            light = Image.new("RGBA", large.size, (255, 255, 255, 255))
            upper = Image.new("L", large.size)
            upper.paste(
                large.getchannel("A").crop((0, 0, 4 * pixels, 2 * pixels)).point([value // 2 for value in range(256)]),
                (0, 0),
            )
            large.paste(light, (0, 0), upper)
        else:
            pen.line([*points, points[0]], fill=colour, width=pixels // 2)
        return large.resize((pixels, pixels), Image.Resampling.LANCZOS)


def outline(corners: int, side: int) -> list[tuple[float, float]]:
    """Corners of a regular shape about the centre; 10 is a star of five, 0 a disc, a negative number stands on a
    corner.
    """
    count = abs(corners) or 48
    turn = math.pi / count if corners == 4 else 0.0
    radii = [0.42 * side * (0.45 if corners == 10 and index % 2 else 1.0) for index in range(count)]
    angles = [2 * math.pi * index / count - math.pi / 2 + turn for index in range(count)]
    return [(side / 2 + r * math.cos(a), side / 2 + r * math.sin(a)) for r, a in zip(radii, angles)]
