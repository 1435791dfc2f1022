"""What each step trains on."""

import logging
from collections import Counter

import pytest

from sana_core.errors import InputError
from sana_core.training.data.captions import chances
from sana_core.training.data.draws import Draws

from .made import data_of

FIRST_ROWS = [(11, 11, 11), (10, 9, 7), (4, 3, 6)]
FIRST_CAPTIONS = [(1, 0, 1), (0, 0, 0), (0, 0, 0)]
SQUARE, WIDE, HIGH = (300, 300), (600, 300), (300, 600)
MIXED = [SQUARE] * 7 + [WIDE] * 4 + [HIGH] * 1


def draws(*sizes, captions=(("x", 1.0), ("y", 1.0)), **options):
    return Draws(data_of(*sizes, captions=captions), **{"batch": 3, "seed": 0, "native": 256, **options})


def epoch(found, number):
    return [found(step) for step in range(number * found.epoch_steps, (number + 1) * found.epoch_steps)]


def test_a_step_is_a_pure_function():
    first = draws(*MIXED)
    forwards = [first(step) for step in range(40)]
    again = draws(*MIXED)
    assert [again(step) for step in reversed(range(40))] == forwards[::-1]
    assert draws(*MIXED)(33) == forwards[33]


def test_the_first_steps_stay_what_they_are():
    """A training that was begun with an older version goes on as it began."""
    found = draws(*MIXED, caption_dropout=0.3)
    assert [found(step).rows for step in (0, 1, 50)] == FIRST_ROWS
    assert [found(step).captions for step in (0, 1, 50)] == FIRST_CAPTIONS


def test_every_picture_once_an_epoch_up_to_the_filling():
    found = draws(*MIXED)
    assert found.epoch_steps == 3 + 2 + 1
    for number in range(3):
        rows = [draw.rows for draw in epoch(found, number)]
        counts = Counter(row for some in rows for row in some)
        assert set(counts) == set(range(len(MIXED)))
        assert sum(counts[row] for row in range(7)) == 9 and max(counts[row] for row in range(7)) == 2
        assert counts[11] == 3  # alone in its bucket
    assert Counter(row for draw in epoch(draws(*[SQUARE] * 6), 0) for row in draw.rows) == dict.fromkeys(range(6), 1)


def test_a_batch_is_of_one_size():
    found = draws(*MIXED)
    kinds = {(256, 256): range(7), (352, 192): range(7, 11), (192, 352): range(11, 12)}
    for step in range(20):
        draw = found(step)
        assert len(draw.rows) == len(draw.captions) == 3
        assert set(draw.rows) <= set(kinds[draw.size])


def test_seeds_and_epochs_differ():
    assert epoch(draws(*MIXED, seed=0), 0) != epoch(draws(*MIXED, seed=1), 0)
    found = draws(*MIXED)
    assert [draw.size for draw in epoch(found, 0)] != [draw.size for draw in epoch(found, 3)]
    assert sorted(draw.rows for draw in epoch(found, 0)) != sorted(draw.rows for draw in epoch(found, 1))


def test_captions_are_drawn_and_dropped():
    found = draws(*[SQUARE] * 3, captions=(("x", 9.0), ("y", 1.0)), caption_dropout=0.25, temperature=0.5)
    counts = Counter(caption for step in range(2000) for caption in found(step).captions)
    assert counts[-1] / 6000 == pytest.approx(0.25, abs=0.02)
    assert counts[0] / (counts[0] + counts[1]) == pytest.approx(chances([9.0, 1.0], 0.5)[0], abs=0.01)


def test_a_fixed_square():
    assert {draws(*MIXED, square=True)(step).size for step in range(10)} == {(256, 256)}


def test_small_pictures_are_counted_in_one_line(caplog):
    with caplog.at_level(logging.WARNING):
        draws((100, 100), (300, 300), (300, 200))
    assert [record.getMessage() for record in caplog.records] == [
        "2 of 3 pictures are smaller than the size they are trained at, and are enlarged"
    ]


def prior_of(*sizes):
    return data_of(*sizes, captions=(("prior", 1.0),))


def test_half_of_a_batch_is_prior_data_of_the_same_size():
    found = draws(*MIXED, batch=4, prior=prior_of(SQUARE, SQUARE, SQUARE, WIDE))
    count = len(MIXED)
    assert len(found.examples) == count + 4
    for step in range(60):
        draw = found(step)
        own, prior = draw.rows[:2], draw.rows[2:]
        assert draw.priors == 2 and len(prior) == 2
        assert max(own) < count <= min(prior)
        # there is no prior picture of the high size: the square ones are the nearest
        assert set(prior) <= ({count + 3} if draw.size == (352, 192) else {count, count + 1, count + 2})
    assert {(count, (192, 352)), (count, (256, 256)), (count + 3, (352, 192))} <= set(found.wanted)
    assert (count + 3, (256, 256)) not in found.wanted


def test_prior_pictures_come_in_turn():
    found = draws(*[SQUARE] * 5, batch=2, prior=prior_of(*[SQUARE] * 3))
    counts = Counter(row for step in range(30) for row in found(step).rows[1:])
    assert counts == {5: 10, 6: 10, 7: 10}


def test_an_odd_batch_has_one_prior_picture_less():
    assert draws(*MIXED, batch=5, prior=prior_of(SQUARE))(0).priors == 2


def test_wanted_is_what_can_be_drawn():
    found = draws(*MIXED)
    drawn = {(row, found(step).size) for step in range(2 * found.epoch_steps) for row in found(step).rows}
    assert drawn == set(found.wanted)


@pytest.mark.parametrize(
    "options",
    [{"batch": 0}, {"batch": 1, "prior": prior_of(SQUARE)}, {"caption_dropout": 1.5}, {"temperature": 0.0},
     {"temperature": float("nan")}, {"native": 100}],
)  # fmt: skip
def test_impossible_settings(options):
    with pytest.raises(InputError):
        draws(*MIXED, **options)


def test_no_pictures():
    with pytest.raises(InputError, match="no picture that can be used"):
        draws()
