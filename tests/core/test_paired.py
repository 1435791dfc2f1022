"""Paired timing against sums done by hand."""

from __future__ import annotations

import pytest
import torch

from bench import paired
from bench.paired import CONTROL, Clock, Ratio, difference, summary, verdict

ONE = torch.ones(4)
NOTHING = "no difference to be told"


def clock(rounds: int = 4) -> Clock:
    return Clock(device=torch.device("cpu"), least_ms=0.1, rounds=rounds)


def busy(turns: int, value: float = 1.0):
    def run() -> torch.Tensor:
        for _ in range(turns):
            ONE + ONE
        return ONE * value

    return run


def ratio(p10: float, p90: float) -> Ratio:
    return Ratio(variant="", milliseconds=1.0, median=1.0, p10=p10, p90=p90, wins=0, rounds=1)


def test_ratios_are_taken_within_rounds():
    found = summary("half", [1.0, 2.0, 50.0], [2.0, 4.0, 100.0])
    assert (found.median, found.p10, found.p90, found.wins, found.milliseconds) == (2.0, 2.0, 2.0, 3, 2.0)


def test_every_variant_and_the_control_run_once_a_round():
    found = paired.paired({"slow": busy(4000), "quick": busy(20)}, clock())
    assert [row.variant for row in found] == ["slow", CONTROL, "quick"]
    assert all(row.rounds == 4 and row.error == 0.0 for row in found)
    assert found[0].median == 1.0 and found[2].wins == 4 and found[2].median > 5.0


def test_results_are_compared_with_the_reference():
    found = paired.paired({"reference": busy(1), "off by a tenth": busy(1, 1.1)}, clock())
    assert found[-1].error == pytest.approx(0.1, rel=1e-5)
    assert difference(ONE * float("nan"), ONE) == float("inf")


def test_after_the_deadline_three_rounds_are_run():
    assert {row.rounds for row in paired.paired({"one": busy(1)}, clock(rounds=50), deadline=0.0)} == {3}


def test_a_variant_that_fails_is_told_and_left_out():
    def fails() -> torch.Tensor:
        raise RuntimeError("no graph")

    told = []
    found = paired.paired({"one": busy(1), "other": fails}, clock(), failed=lambda *what: told.append(what))
    assert [row.variant for row in found] == ["one", CONTROL] and told[0][0] == "other"
    with pytest.raises(RuntimeError, match="no graph"):
        paired.paired({"one": busy(1), "other": fails}, clock())
    with pytest.raises(RuntimeError, match="no graph"):
        paired.paired({"one": fails}, clock(), failed=print)


@pytest.mark.parametrize(
    ("p10", "p90", "said"),
    [(1.06, 1.2, "faster"), (1.04, 1.2, NOTHING), (0.8, 0.94, "slower"), (0.8, 0.96, NOTHING)],
)
def test_a_difference_lies_outside_of_the_noise(p10, p90, said):
    assert verdict(ratio(p10, p90), control=ratio(0.95, 1.05)) == said
