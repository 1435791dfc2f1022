"""Which caption a step shows."""

from collections import Counter
from random import Random

import pytest

from sana_core.training.data.captions import DROPPED, chances, choose

CAPTIONS = (("a", 30.0), ("b", 27.0))


def test_weights_are_proportions_at_temperature_1():
    assert chances([3, 1]) == pytest.approx([0.75, 0.25])


def test_scores_at_the_temperature_of_upstream():
    first, second = 30.0**10, 27.0**10
    assert chances([30.0, 27.0], 0.1) == pytest.approx([first / (first + second), second / (first + second)])


def test_extreme_weights_stay_numbers():
    assert chances([1e308, 1e-308], 1e-3) == [1.0, 0.0]


def test_captions_are_drawn_by_their_chances_and_dropped():
    random = Random(0)
    found = Counter(choose(CAPTIONS, random, dropout=0.1, temperature=0.1) for _ in range(20_000))
    chance = chances([30.0, 27.0], 0.1)
    assert found[DROPPED] / 20_000 == pytest.approx(0.1, abs=0.01)
    assert found[0] / 20_000 == pytest.approx(0.9 * chance[0], abs=0.015)
    assert found[1] > 0 and set(found) == {DROPPED, 0, 1}


def test_a_dropped_caption_does_not_move_the_next():
    one, other = Random(5), Random(5)
    choose(CAPTIONS, one, dropout=1.0)
    choose(CAPTIONS, other, dropout=0.0)
    assert one.random() == other.random()
