"""NVIDIA's tournament: the kept pictures are those that a brute-force ranking over all pairs gives."""

import itertools
import random

import pytest
from PIL import Image

from sana_core.scoring import Verdict, select

LOGITS = {"all different": lambda rng: rng.gauss(0, 8), "ties": lambda rng: float(rng.randrange(-2, 3))}


def upstream(first, second):
    """Does the first win? The rule of upstream's script, written anew."""
    if first.answer and second.answer:
        return first.yes > second.yes
    if not first.answer and not second.answer:
        return first.no < second.no
    return first.answer


def verdicts(kind, count, seed):
    rng = random.Random(seed)
    return [Verdict(answer=rng.random() < 0.5, yes=LOGITS[kind](rng), no=LOGITS[kind](rng)) for _ in range(count)]


@pytest.mark.parametrize("kind", LOGITS)
@pytest.mark.parametrize("keep", [1, 4, 24])
@pytest.mark.parametrize("seed", range(8))
def test_the_tournament_equals_brute_force(kind, keep, seed):
    """Brute force: by the number of others that a picture does not lose to, then by the order of the seeds."""
    said = verdicts(kind, 24, seed)
    found = select(
        lambda seeds: [(Image.new("L", (1, 1), at), None) for at in seeds],
        range(24),
        "a cat",
        lambda pictures, prompts: [said[picture.getpixel((0, 0))] for picture in pictures],
        keep=keep,
        at_once=5,
    )
    losses = [sum(upstream(other, one) for other in said) for one in said]
    expected = sorted(range(24), key=lambda at: (losses[at], at))[:keep]
    assert [kept.seed for kept in found.best] == expected


@pytest.mark.parametrize("kind", LOGITS)
def test_the_duel_is_upstreams_and_its_number_has_its_order(kind):
    for first, second in itertools.permutations(verdicts(kind, 60, 1), 2):
        assert (first > second) == upstream(first, second) == (float(first) > float(second))


@pytest.mark.parametrize("logits", [(1e-6, 2e-6), (29.999998, 30.0), (999.9999, 1000.0), (1e6, 1e6 + 0.0625)])
def test_logits_that_float32_tells_apart_have_numbers_apart(logits):
    low, high = logits
    assert float(Verdict(answer=True, yes=low, no=0.0)) < float(Verdict(answer=True, yes=high, no=0.0)) < 1.0
    assert 0.0 < float(Verdict(answer=False, yes=0.0, no=high)) < float(Verdict(answer=False, yes=0.0, no=low)) < 0.5


def test_the_number_says_yes_above_a_half():
    assert float(Verdict(answer=False, yes=9.0, no=-float("inf"))) == 0.5
    assert 0.5 < float(Verdict(answer=True, yes=-1e9, no=9.0)) < 0.5000001
    assert float(Verdict(answer=True, yes=float("inf"), no=0.0)) == 1.0
