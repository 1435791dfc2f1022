"""What each step trains on, as a pure function of the step: a training that is resumed goes on as if never stopped.

An epoch is a shuffle of its own. In it the pictures of each size are cut into batches, and the batches of all sizes are
shuffled. Only `random()` of Python's generator is used, whose numbers are the same in every version.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random

from ...errors import InputError
from .buckets import Size, is_enlarged, trained_sizes
from .captions import choose
from .example import DataSet, Example

log = logging.getLogger("sana")
COLDEST = 0.01  # temperature, as upstream's
REMEMBERED = 32  # shuffles of the prior data


@dataclass(frozen=True)
class Draw:
    """size: (width, height) of all pictures. rows: indices into the examples. captions: which one of each, -1 for the
    empty prompt. priors: how many rows, at the end, are of the prior data.
    """

    size: Size
    rows: tuple[int, ...]
    captions: tuple[int, ...]
    priors: int = 0


class Draws:
    """`draws(step)` for every step from 0 on.

    Each picture appears once an epoch. The last batch of a size is filled up from the begin of that size's order.

    prior: pictures of the class, for prior preservation. They are one half of each batch (the smaller one of an odd
    batch), in turn: of the batch's size where the data has some, else those with the nearest aspect ratio, cropped to
    it. Their rows count on behind those of `data`.

    examples: all that rows are indices into. wanted: every (row, size) that can be drawn, which is what to encode.
    """

    def __init__(
        self,
        data: DataSet,
        *,
        batch: int,
        seed: int,
        native: int,
        square: bool = False,
        caption_dropout: float = 0.0,
        temperature: float = 1.0,
        prior: DataSet | None = None,
    ) -> None:
        """native, square: as in `trained_size`. temperature: as in `chances`. Raises InputError."""
        self.examples: tuple[Example, ...] = data.examples + (prior.examples if prior else ())
        self.seed, self.dropout, self.temperature = seed, caption_dropout, temperature
        self.priors = batch // 2 if prior else 0
        self.own = batch - self.priors  # pictures of a batch that are of `data`
        _check(batch, caption_dropout, temperature, prior is not None)
        data.checked()
        sizes = trained_sizes(self.examples, native, square=square)
        count = len(data.examples)
        self.buckets = _buckets(range(count), sizes)
        self.prior_buckets = _nearest(self.buckets, _buckets(range(count, len(sizes)), sizes)) if prior else {}
        wanted = {(row, size) for found in (self.buckets, self.prior_buckets) for size in found for row in found[size]}
        self.wanted: tuple[tuple[int, Size], ...] = tuple(sorted(wanted))
        self.epoch_steps = sum(self._batches(size) for size in self.buckets)
        # what was worked out last, so that no step works it out again
        self._epoch: tuple[int, tuple[list[tuple[Size, int]], dict[Size, list[int]]]] | None = None
        self._turns: dict[tuple[Size, int], list[int]] = {}
        self._tell_enlarged()

    def __call__(self, step: int) -> Draw:
        epoch, place = divmod(step, self.epoch_steps)
        plan, orders = self._plan(epoch)
        size, index = plan[place]
        order = orders[size]
        rows = [order[position % len(order)] for position in range(index * self.own, (index + 1) * self.own)]
        if self.priors:
            first = (epoch * self._batches(size) + index) * self.priors
            rows += self._prior_rows(size, first)
        return Draw(size, tuple(rows), self._captions(step, rows), self.priors)

    def _batches(self, size: Size) -> int:
        return -(-len(self.buckets[size]) // self.own)

    def _plan(self, epoch: int) -> tuple[list[tuple[Size, int]], dict[Size, list[int]]]:
        """Its batches: (size, which one of that size); and the order of the pictures of each size."""
        if self._epoch is None or self._epoch[0] != epoch:
            batches = [(size, index) for size in self.buckets for index in range(self._batches(size))]
            orders = {
                size: _shuffled(rows, f"{self.seed} pictures {epoch} {size}") for size, rows in self.buckets.items()
            }
            self._epoch = epoch, (_shuffled(batches, f"{self.seed} batches {epoch}"), orders)
        return self._epoch[1]

    def _prior_rows(self, size: Size, first: int) -> list[int]:
        """Those from a place on in an endless row of shuffles."""
        count = len(self.prior_buckets[size])
        places = (divmod(place, count) for place in range(first, first + self.priors))
        return [self._prior_order(size, turn)[index] for turn, index in places]

    def _prior_order(self, size: Size, turn: int) -> list[int]:
        if (size, turn) not in self._turns:
            if len(self._turns) >= REMEMBERED:
                self._turns.clear()
            self._turns[size, turn] = _shuffled(self.prior_buckets[size], f"{self.seed} priors {turn} {size}")
        return self._turns[size, turn]

    def _captions(self, step: int, rows: Sequence[int]) -> tuple[int, ...]:
        random = Random(f"{self.seed} captions {step}")
        found = (self.examples[row].captions for row in rows)
        return tuple(choose(one, random, dropout=self.dropout, temperature=self.temperature) for one in found)

    def _tell_enlarged(self) -> None:
        count = len({row for row, size in self.wanted if is_enlarged(self.examples[row], size)})
        if count:
            log.warning(
                "%d of %d pictures are smaller than the size they are trained at, and are enlarged",
                count, len(self.examples),
            )  # fmt: skip


def _check(batch: int, dropout: float, temperature: float, prior: bool) -> None:
    if batch < 1 + prior:
        raise InputError(f"a batch has at least {1 + prior} pictures{' with prior ones' * prior}, got {batch}")
    if not 0 <= dropout <= 1:
        raise InputError(f"the share of captions that are dropped is 0 to 1, got {dropout:g}")
    if not COLDEST <= temperature < math.inf:
        raise InputError(f"captions are drawn at a temperature of at least {COLDEST:g}, got {temperature:g}")


def _buckets(rows: Sequence[int], sizes: Sequence[Size]) -> dict[Size, list[int]]:
    found: dict[Size, list[int]] = {}
    for row in rows:
        found.setdefault(sizes[row], []).append(row)
    return dict(sorted(found.items()))


def _nearest(sizes: Iterable[Size], priors: dict[Size, list[int]]) -> dict[Size, list[int]]:
    """For each size the rows of the prior bucket with the nearest aspect ratio."""

    def distance(one: Size, other: Size) -> float:
        return abs(math.log(one[0] * other[1] / (one[1] * other[0])))

    return {size: priors[min(priors, key=lambda other: distance(size, other))] for size in sizes}


def _shuffled(items: Sequence, seed: str) -> list:
    random = Random(seed)
    keys = [random.random() for _ in items]
    return [items[index] for index in sorted(range(len(items)), key=keys.__getitem__)]
