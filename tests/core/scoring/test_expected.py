"""What fewer candidates would have given, and its plot."""

import itertools
import random

import pytest

from sana_core.scoring.expected import expected_best, numbers
from sana_core.scoring.plot import score_plot


@pytest.mark.parametrize("count", range(1, 9))
def test_the_mean_over_all_ways_to_take_some(count):
    rng = random.Random(count)
    for scores in ([rng.gauss(0, 1) for _ in range(8)], [float(rng.randrange(3)) for _ in range(8)]):
        ways = list(itertools.combinations(scores, count))
        assert expected_best(scores, count) == pytest.approx(sum(map(max, ways)) / len(ways))


def test_right_and_wrong():
    """Of scores 0 and 1 it is the chance that one of so many is right."""
    scores = [1.0] * 3 + [0.0] * 13
    assert expected_best(scores, 2) == pytest.approx(1 - (13 / 16) * (12 / 15))
    assert expected_best(scores, 16) == 1.0


def test_thousands():
    scores = [random.Random(0).gauss(0, 1) for _ in range(2048)]
    assert expected_best(scores, 2048) == pytest.approx(max(scores))
    assert expected_best(scores, 1) == pytest.approx(sum(scores) / 2048)


@pytest.mark.parametrize("count, expected", [
    (0, []), (1, [1]), (2, [1, 2]), (5, [1, 2, 4, 5]), (8, [1, 2, 4, 8]), (48, [1, 2, 4, 8, 16, 32, 48]),
])  # fmt: skip
def test_numbers(count, expected):
    assert numbers(count) == expected


def brightest_rows(picture, column):
    return [row for row in range(picture.height) if picture.getpixel((column, row)) == (255, 180, 84)]


def test_the_plot_rises_and_takes_what_has_a_score():
    rng = random.Random(0)
    scores = [[rng.gauss(0, 1) for _ in range(64)], [None, *[rng.gauss(1, 1) for _ in range(63)]]]
    picture = score_plot(scores)
    left, right = brightest_rows(picture, 90), brightest_rows(picture, picture.width - 30)
    assert left and right and max(right) < min(left)


@pytest.mark.parametrize("scores", [[], [[None, None]], [[1.0]], [[2.0, 2.0, None]], [[0.0] * 2048]])
def test_the_plot_of_little(scores):
    assert score_plot(scores).size == (640, 400)
