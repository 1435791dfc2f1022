"""The table of tools.nano.best_of on couples whose chances are known."""

import random

import pytest

from tools.nano.best_of import Couple, table


def test_what_order_statistics_predict():
    rng, couples = random.Random(0), []
    for _ in range(400):
        chance = rng.choice((0.0, 0.1, 0.9))
        first = [rng.random() < chance for _ in range(8)]
        others = [rng.random() < chance for _ in range(8)]
        couples.append(Couple({count: any(first[:count]) for count in (1, 2, 4, 8)}, others))
    for row in table(couples):
        count = row["n"]
        true = sum(1 - (1 - chance) ** count for chance in (0.0, 0.1, 0.9)) / 3
        assert row["predicted"] == pytest.approx(true, abs=0.06)
        assert abs(row["measured"] - row["predicted"]) < 4 * row["error"] and 0.0 < row["error"] < 0.05
    assert table(couples)[-1]["plain"] < table(couples)[-1]["predicted"] + 1e-9
