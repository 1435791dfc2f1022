"""What becomes of prompts at, below and above the threshold, on probabilities that are known."""

import pickle
from fractions import Fraction

import pytest

from sana_core import Request
from sana_core.errors import InputError, RefusedError, SanaError
from sana_core.safety import HARMLESS, THRESHOLD, PromptCheck, Replaced

KNOWN = {"a cat": 0.1, "at the threshold": 0.2, "bad": 0.2000001, "worse": 0.9}


class Known:
    def __init__(self):
        self.read = []

    def __call__(self, prompts, progress=None):
        self.read += prompts
        return [KNOWN.get(prompt, 0.0) for prompt in prompts]


def check(**settings):
    return PromptCheck(shield=Known(), **settings)


def test_the_threshold_is_upstreams():
    assert THRESHOLD == 0.2 and HARMLESS == "A red heart."
    verdicts = check().verdicts(list(KNOWN))
    assert [verdict.refused for verdict in verdicts] == [False, False, True, True]
    assert [verdict.refused for verdict in check(threshold=0.95).verdicts(list(KNOWN))] == [False] * 4
    assert [verdict.refused for verdict in check(threshold=0).verdicts(["nothing", "a cat"])] == [False, True]


def test_equal_prompts_are_read_once():
    found = check()
    assert [verdict.prompt for verdict in found.verdicts(["a cat", "bad", "a cat"])] == ["a cat", "bad", "a cat"]
    assert found.shield.read == ["a cat", "bad"]


def test_a_refusal_says_what_why_and_how_to_go_on():
    with pytest.raises(RefusedError) as error:
        check().passed(["worse"])
    said = str(error.value)
    for part in ("the prompt 'worse' (probability 0.900)", "threshold 0.2", "Nothing was drawn", "other words"):
        assert part in said
    assert isinstance(error.value, SanaError) and "higher threshold" in said and "leave out the check" in said


def test_a_refusal_of_several():
    long = "worse " * 500
    KNOWN.update({long: 0.5, "x": 0.6, "y": 0.7})
    with pytest.raises(RefusedError) as error:
        check().passed(["a cat", long, "worse", "bad", "bad", "x", "y"])
    said = str(error.value)
    assert said.startswith("5 of 6 prompts are against") and "and others. Nothing" in said
    assert len(said) < 700 and " ... " in said and "(probability 0.500)" in said


def test_a_replacement_is_said(caplog):
    assert check(action="replace").passed(["a cat", "worse", "worse"]) == ["a cat", HARMLESS, HARMLESS]
    (record,) = caplog.records
    assert "\"A red heart.\" is drawn in place of the prompt 'worse' (probability 0.900)" in record.message
    assert "above the threshold 0.2" in record.message


def test_requests():
    good = Request("a cat", seed=1)
    bad = Request("worse", seed=2, style="Anime", negative_prompt="n", width=64)
    mixed = Request(["a cat", "bad"], seed=3)
    passing = check()
    assert passing.applied([good, good])[0] is good and passing.shield.read == ["a cat"]
    with pytest.raises(RefusedError, match="2 of 3 prompts"):
        check().applied([good, bad, mixed])
    found = check(action="replace").applied([good, bad, mixed])
    assert found[0] is good and [isinstance(request, Replaced) for request in found] == [False, True, True]
    assert (found[1].prompt, found[2].prompt) == (HARMLESS, ("a cat", HARMLESS))
    assert found[1].changed(prompt="worse") == bad
    again = pickle.loads(pickle.dumps(found[1].checked()))
    assert isinstance(again, Replaced) and again.prompt == HARMLESS and "worse" not in repr(again)


def test_the_prompt_is_checked_before_its_style():
    found = check()
    found.applied([Request("a cat", style="anime", negative_prompt="bad")])
    assert found.shield.read == ["a cat"]


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan"), "0.2", None, True, Fraction(1, 5)])
def test_a_threshold_that_cannot_be(threshold):
    with pytest.raises(InputError, match="expected a number from 0 to 1"):
        check(threshold=threshold)


def test_an_action_that_cannot_be():
    with pytest.raises(InputError, match="expected one of refuse, replace"):
        check(action="warn")
