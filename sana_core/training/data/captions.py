"""Which caption of a picture a step shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random

DROPPED = -1  # the empty prompt stands in its place


def chances(weights: Sequence[float], temperature: float = 1.0) -> list[float]:
    """Probabilities in proportion to weight ** (1 / temperature): the softmax of log(weight) / temperature.

    At 1 the weights are the proportions. Upstream draws by CLIP scores so, at 0.1. weights: all above 0.
    """
    logarithms = [math.log(weight) / temperature for weight in weights]
    highest = max(logarithms)
    exponentials = [math.exp(value - highest) for value in logarithms]
    total = sum(exponentials)
    return [value / total for value in exponentials]


def choose(
    captions: Sequence[tuple[str, float]], random: Random, *, dropout: float = 0.0, temperature: float = 1.0
) -> int:
    """The index of a caption, or DROPPED. Takes two numbers from `random`, whatever comes of it."""
    dropped, place = random.random() < dropout, random.random()
    if dropped:
        return DROPPED
    for index, chance in enumerate(chances([weight for _, weight in captions], temperature)):
        place -= chance
        if place < 0:
            return index
    return len(captions) - 1
