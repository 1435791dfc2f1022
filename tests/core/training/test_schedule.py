"""The learning rate over a training."""

import torch
from torch import nn

from sana_core.training.schedule import rate_factor, set_rate


def test_the_rate_rises_stays_and_falls():
    rates = [rate_factor(step, 1000, warmup=10, decay=0.5) for step in (0, 9, 500, 750, 999)]
    assert rates == [0.1, 1.0, 1.0, 0.5, 0.02]


def test_without_warm_up_and_decay_the_rate_stays():
    assert [rate_factor(step, 10, warmup=0, decay=0) for step in (0, 5, 9, 20)] == [1.0] * 4


def test_every_group_keeps_its_peak():
    optimizer = torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (1.0, 2.0)])
    for factor in (0.5, 0.25):
        set_rate([optimizer], factor)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.5]
