"""The loss over the steps as a picture."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from ..pictures.chart import DIM, Line, chart


def loss_plot(losses: Sequence[tuple[int, float]], steps: int) -> Image.Image:
    """losses: (step, loss) in order; none draws an empty frame. steps: of the whole training. The bright line is their
    moving mean.
    """
    means = moving_means([loss for _, loss in losses])
    mean_line = [(step, mean) for (step, _), mean in zip(losses, means)]
    said = f"loss {means[-1]:.4g} at step {losses[-1][0]}" if losses else "loss"
    ticks = [(step, str(step)) for step in (0, steps // 2, steps)]
    return chart([Line(losses, DIM, 1), Line(mean_line)], ticks, said)


def moving_means(values: Sequence[float]) -> list[float]:
    """Each over about the last tenth of what came before, at least 8 values."""
    window = max(8, len(values) // 10)
    starts = (max(0, end - window) for end in range(1, len(values) + 1))
    return [sum(values[start:end]) / (end - start) for end, start in enumerate(starts, start=1)]
