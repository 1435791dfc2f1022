"""Selection in rounds: what is kept, what memory holds, and scorers that fail."""

import logging
import math
import random
import re
import weakref

import numpy as np
import pytest
from PIL import Image

from sana_core.errors import InputError
from sana_core.scoring import Verdict, candidate_seeds, select
from sana_core.seeds import derived_seed


def picture(seed):
    return Image.new("RGB", (2, 2), (seed % 256, seed // 256 % 256, 0))


def seed_of(image):
    red, green, _ = image.getpixel((0, 0))
    return red + 256 * green


def draw(seeds):
    return [(picture(seed), f"latent {seed}") for seed in seeds]


def by(score):
    """A scorer of seeds."""
    return lambda pictures, prompts: [score(seed_of(image)) for image in pictures]


@pytest.mark.parametrize("count, keep, at_once", [(1, 1, 4), (7, 3, 2), (16, 16, 5), (40, 1, 8), (40, 7, 100)])
def test_the_best_of_all_are_kept(count, keep, at_once):
    """With ties, which stay in the order of their seeds."""
    drawn, done = [], []
    score = {seed: random.Random(seed).randrange(6) for seed in range(count)}
    found = select(
        lambda seeds: drawn.append(len(seeds)) or draw(seeds), range(count), "a cat", by(score.get), keep=keep,
        at_once=at_once, progress=done.append,
    )  # fmt: skip
    expected = sorted(range(count), key=lambda seed: (-score[seed], seed))[:keep]
    assert [kept.seed for kept in found.best] == [kept.index for kept in found.best] == expected
    assert [(seed_of(kept.picture), kept.latent) for kept in found.best] == [(s, f"latent {s}") for s in expected]
    assert [kept.score for kept in found.best] == [score[seed] for seed in expected]
    assert (found.seeds, found.scores) == (list(range(count)), list(score.values())) and not found.failures
    assert max(drawn) <= at_once and sum(drawn) == done[-1] == count and done == sorted(done)


def test_every_picture_is_scored_with_the_prompt():
    seen = []
    select(draw, range(5), "a cat", lambda pictures, prompts: seen.extend(prompts) or [0] * len(pictures), at_once=2)
    assert seen == ["a cat"] * 5


def test_the_seeds_of_candidates():
    seeds = candidate_seeds(7, 32)
    assert seeds[0] == 7 and seeds[:5] == candidate_seeds(7, 5) and len(set(seeds)) == 32
    assert seeds[1:] == [derived_seed(7, index) for index in range(1, 32)]


def test_memory_holds_the_best_and_one_round():
    made, most = [], []

    def counted(seeds):
        drawn = [(picture(seed), picture(seed)) for seed in seeds]
        made.extend(weakref.ref(image) for pair in drawn for image in pair)
        most.append(sum(image() is not None for image in made))
        return drawn

    found = select(counted, range(200), "a cat", by(lambda seed: seed), keep=3, at_once=5)
    assert [kept.seed for kept in found.best] == [199, 198, 197]
    assert max(most) == 2 * (3 + 5)  # a picture and a latent each


def test_scores_may_be_of_numpy_torch_and_the_like():
    scores = np.array([0.5, 2.0, 1.0], dtype=np.float16)
    found = select(draw, range(3), "a cat", lambda pictures, prompts: scores)
    assert found.best[0].seed == 1 and found.scores == [0.5, 2.0, 1.0]
    assert all(type(score) is float for score in found.scores)


# --- scorers that fail


def raises(pictures, prompts):
    raise RuntimeError("the card is on\nfire")


NONSENSE = {
    "raises": (raises, r"the scorer failed \(RuntimeError: the card is on fire\)"),
    "too few": (lambda pictures, prompts: [1.0] * (len(pictures) - 1), r"gave \d scores for \d pictures"),
    "not a number": (lambda pictures, prompts: [math.nan] * len(pictures), "gave nan where a number belongs"),
    "infinite": (lambda pictures, prompts: [math.inf] * len(pictures), "gave inf where a number belongs"),
    "texts": (lambda pictures, prompts: ["0.5"] * len(pictures), "gave '0.5' where a number belongs"),
    "a text": (lambda pictures, prompts: "12345678"[: len(pictures)], "gave '1' where a number belongs"),
    "nothing": (lambda pictures, prompts: None, "the scorer failed"),
    "none": (lambda pictures, prompts: [None] * len(pictures), "gave None where a number belongs"),
    "verdicts without a number": (
        lambda pictures, prompts: [Verdict(answer=True, yes=math.nan, no=0.0)] * len(pictures),
        "where a number belongs",
    ),
}


@pytest.mark.parametrize("scorer, said", NONSENSE.values(), ids=NONSENSE)
def test_no_picture_is_lost_by_a_scorer_that_fails(scorer, said, caplog):
    with caplog.at_level(logging.WARNING, logger="sana"):
        found = select(draw, range(8), "a cat", scorer, keep=3, at_once=4)
    assert [kept.seed for kept in found.best] == [0, 1, 2] and all(kept.score is None for kept in found.best)
    assert found.scores == [None] * 8 and len(found.failures) == 1
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 1 and "\n" not in messages[0]
    assert re.search(said, messages[0])


def test_a_round_without_scores_comes_last():
    calls = []

    def scorer(pictures, prompts):
        calls.append(len(pictures))
        if len(calls) == 1:
            raise ValueError("not yet")
        return [seed_of(image) for image in pictures]

    found = select(draw, range(7), "a cat", scorer, keep=5, at_once=4)
    assert [kept.seed for kept in found.best] == [6, 5, 4, 0, 1]
    assert found.scores == [None] * 4 + [4.0, 5.0, 6.0]


def test_one_picture_without_a_score_costs_the_others_nothing():
    found = select(draw, range(6), "a cat", by(lambda seed: math.nan if seed == 5 else seed), keep=6, at_once=6)
    assert [kept.seed for kept in found.best] == [4, 3, 2, 1, 0, 5]


def test_a_scorer_that_keeps_failing_ends_the_drawing(caplog):
    with caplog.at_level(logging.WARNING, logger="sana"):
        found = select(draw, range(2000), "a cat", raises, keep=3, at_once=1)
        assert len(found.seeds) == 3
        assert len(select(draw, range(2000), "a cat", raises, keep=7, at_once=2).best) == 7
    assert "the scorer failed 3 times in a row: 3 of 2000 candidates were drawn" in caplog.text


def test_an_interrupt_is_no_failure():
    def interrupted(pictures, prompts):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        select(draw, range(3), "a cat", interrupted)


@pytest.mark.parametrize("count, keep, said", [(0, 1, "best of 0"), (4, 0, "0 are kept"), (2, 3, "3 pictures cannot")])
def test_numbers_that_cannot_be_are_refused_before_a_picture(count, keep, said):
    with pytest.raises(InputError, match=said):
        select(raises, range(count), "a cat", raises, keep=keep)
