"""Allocations of the embedded model's jobs that fail: each ends in one clear error or in tiles, and changes nothing."""

import pytest
import torch

from tools.shortage import library
from tools.shortage.__main__ import PARTS
from tools.shortage.allocator import Shortage
from tools.shortage.trial import Job, attempt


@pytest.mark.parametrize("part", PARTS)
def test_some_allocations(part):
    for job in library.jobs(part):
        tally = attempt(job, lambda number: number % 131 == 1)
        assert tally.tried > 0 and tally.wrong == []


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_many_allocations(part):
    for job in library.jobs(part):
        assert attempt(job, lambda number: number <= 20 or number % 37 == 0).wrong == []


def test_what_counts_as_an_allocation():
    x = torch.ones(4)
    with Shortage() as seen:
        x.add_(1.0), x.view(2, 2), x.to(torch.float32), torch.empty(3, device="meta")
        assert seen.count == 0
        made = x + 1.0, torch.zeros(2), x.to(torch.float64)
        assert seen.count == seen.held() == 3
    del made
    assert seen.held() == 0


def test_what_is_found():
    weights = torch.zeros(2)
    kept = []

    def work(weights):
        weights += 1.0
        kept.append(weights.clone())
        return weights.clone()

    wrong = " ".join(attempt(Job(name="bad", prepare=weights.clone, work=work, state=lambda x: [x.clone()])).wrong)
    assert "left changed" in wrong and "are held" in wrong and "another result" in wrong
    assert "unheard" in attempt(Job(name="deaf", work=lambda _: deaf())).wrong[0]


def deaf():
    try:
        return torch.ones(1) + 1.0
    except (MemoryError, RuntimeError):
        return torch.zeros(1)
