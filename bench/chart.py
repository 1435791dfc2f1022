"""Ratios as a picture: a bar for each variant, whiskers from the 10th to the 90th percentile, drawn by pillow alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from bench.paired import CONTROL

ROW, LABELS, BARS, MARGIN, HEADER = 20, 330, 420, 14, 56
WHITE, BLACK, GREY, LIGHT = (255, 255, 255), (25, 25, 25), (110, 110, 110), (225, 225, 225)
COLOURS = {"faster": (38, 128, 92), "slower": (190, 70, 50)}
OTHER = (140, 150, 165)


def draw(rows: list[dict[str, Any]], title: str, path: Path) -> None:
    """rows: as `speed.run` returns them. The line at 1 is the reference."""
    lines = list(labelled(rows))
    largest = max([1.1, *(row["ratio"]["p90"] for _, row in lines if row)]) * 1.05
    font, small = ImageFont.load_default(13), ImageFont.load_default(11)
    image = Image.new("RGB", (LABELS + BARS + 90 + 2 * MARGIN, HEADER + ROW * len(lines) + 2 * MARGIN), WHITE)
    pen = ImageDraw.Draw(image)

    def x(ratio: float) -> float:
        return MARGIN + LABELS + BARS * ratio / largest

    pen.text((MARGIN, MARGIN), "Times faster than diffusers (median, 10th to 90th percentile)", BLACK, font)
    pen.text((MARGIN, MARGIN + 18), shortened(title, image.width - 2 * MARGIN, small), GREY, small)
    top, bottom = HEADER + MARGIN, image.height - MARGIN
    step = 0.25 if largest < 2.5 else 0.5 if largest < 5 else 1.0
    for index in range(1, int(largest / step) + 1):
        pen.line([(x(index * step), top), (x(index * step), bottom)], LIGHT)
        pen.text((x(index * step), top - 14), f"{index * step:g}", GREY, small, anchor="ma")
    for index, (label, row) in enumerate(lines):
        y = top + index * ROW
        if row is None:
            pen.text((MARGIN, y + 3), shortened(label, image.width - 2 * MARGIN, small), GREY, small)
            continue
        pen.text((MARGIN + 12, y + 3), shortened(label, LABELS - 16, small), BLACK, small)
        bar(pen, x, y, row, small)
    pen.line([(x(1.0), top), (x(1.0), bottom)], BLACK)
    image.save(path)


def bar(pen: ImageDraw.ImageDraw, x: Callable[[float], float], y: int, row: dict[str, Any], font: Any) -> None:
    ratio, middle = row["ratio"], y + ROW // 2
    pen.rectangle([x(0.0), y + 4, x(ratio["median"]), y + ROW - 4], fill=COLOURS.get(row["verdict"], OTHER))
    pen.line([(x(ratio["p10"]), middle), (x(ratio["p90"]), middle)], BLACK, 2)
    for end in (ratio["p10"], ratio["p90"]):
        pen.line([(x(end), middle - 4), (x(end), middle + 4)], BLACK, 2)
    pen.text((x(max(ratio["median"], ratio["p90"])) + 8, y + 3), f"{ratio['median']:.2f}", BLACK, font)


def labelled(rows: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """(label, row), and (name of a case, None) before the rows of each case; the reference itself has no bar."""
    seen = reference = None
    for row in rows:
        case = f"{row['section']}: {row['case']}"
        if case != seen:
            seen, reference = case, row["ratio"]["variant"]
            yield case, None
        if row["ratio"]["variant"] != reference:
            control = row["ratio"]["variant"] == CONTROL
            yield ("diffusers again (the noise)" if control else row["ratio"]["variant"]), row


def shortened(text: str, width: int, font: Any) -> str:
    while font.getlength(text) > width:
        text = text.rstrip(".")[:-1].rstrip() + "..."
    return text
