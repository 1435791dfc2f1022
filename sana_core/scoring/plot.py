"""The expected best score over the number of candidates, as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image

from ..pictures.chart import Line, chart
from .expected import expected_best, numbers

MOST_TICKS = 8


def score_plot(scores: Sequence[Sequence[float | None]]) -> Image.Image:
    """scores: of the candidates of each request; None has no score. The line is the mean of the requests, over 1, 2,
    4 ... candidates, as far as the request with the fewest scores goes.
    """
    scored = [[score for score in each if score is not None] for each in scores]
    scored = [each for each in scored if each]
    if not scored:
        return chart([], [(0, "1")], "no scores")
    counts = numbers(min(map(len, scored)))
    means = [sum(expected_best(each, count) for each in scored) / len(scored) for count in counts]
    places = [math.log2(count) for count in counts]
    every = -(-len(counts) // MOST_TICKS)
    ticks = [(place, str(count)) for place, count in zip(places[::-1][::every], counts[::-1][::every])][::-1]
    if ticks[0][0] != 0.0:
        ticks.insert(0, (0.0, "1"))
    return chart(
        [Line(list(zip(places, means)))], ticks, f"best of {counts[-1]}: {means[-1]:.4g}, of 1: {means[0]:.4g}"
    )
