"""What fewer candidates would have given, by order statistics."""

from __future__ import annotations

from collections.abc import Sequence


def numbers(best_of: int) -> list[int]:
    """1, 2, 4 ... and the last one; none of 0."""
    if not best_of:
        return []
    doubled = [2**power for power in range(best_of.bit_length()) if 2**power < best_of]
    return [*doubled, best_of]


def expected_best(scores: Sequence[float], count: int) -> float:
    """The mean of the highest score over all ways to take `count` of the scores. count: from 1 to their number.

    Of the scores in order the i-th is the highest in C(i - 1, count - 1) of C(N, count) ways.
    """
    ordered = sorted(scores, reverse=True)
    share, total = count / len(ordered), 0.0
    for place, score in enumerate(ordered):
        total += share * score
        below = len(ordered) - place - 1
        share *= (below - count + 1) / below if below else 0.0
    return total
