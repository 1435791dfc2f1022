"""Lines over a range as a picture, readable at the size of a node."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT = 640, 400
LEFT, RIGHT, TOP, BOTTOM = 76, 20, 44, 40
PAPER, LINES, WORDS, DIM, BRIGHT = "#1d222b", "#3a424f", "#c6ced9", "#5b7597", "#ffb454"
LETTERS = 18
MOST_LINES = 5


@dataclass(frozen=True)
class Line:
    """points: (x, y) in order; a single one is a dot."""

    points: Sequence[tuple[float, float]]
    colour: str = BRIGHT
    width: int = 4


def chart(lines: Sequence[Line], ticks: Sequence[tuple[float, str]], title: str) -> Image.Image:
    """ticks: (x, what it is called) in order; the first and the last are the ends of the range."""
    picture = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(LETTERS)
    low, high = _range([y for line in lines for _, y in line.points])
    first, last = ticks[0][0], ticks[-1][0]

    def place(x: float, y: float) -> tuple[float, float]:
        right = (x - first) / ((last - first) or 1.0)
        down = (y - low) / (high - low)
        return LEFT + (WIDTH - LEFT - RIGHT) * right, HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * down

    for value in _round_values(low, high):
        _, y = place(first, value)
        draw.line((LEFT, y, WIDTH - RIGHT, y), LINES)
        draw.text((LEFT - 8, y), f"{value:g}", WORDS, font, anchor="rm")
    for x, name in ticks:
        at, _ = place(x, low)
        ends = x == last and len(ticks) > 1
        draw.text(
            (at + (RIGHT // 2 if ends else 0), HEIGHT - BOTTOM + 10), name, WORDS, font, anchor="rt" if ends else "mt"
        )
    for line in lines:
        points = [place(x, y) for x, y in line.points]
        if len(points) > 1:
            draw.line(points, line.colour, line.width, joint="curve")
        elif points:
            x, y = points[0]
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), line.colour)
    draw.text((LEFT, TOP // 2), title, WORDS, font, anchor="lm")
    return picture


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Lowest and highest, with a margin, and never the same."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def _round_values(low: float, high: float) -> list[float]:
    """At most MOST_LINES round numbers between two others."""
    rough = (high - low) / MOST_LINES
    power = 10.0 ** math.floor(math.log10(rough))
    between = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first = math.ceil(low / between)
    return [float(f"{index * between:.6g}") for index in range(first, math.floor(high / between) + 1)]
