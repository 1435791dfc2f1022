"""Distillation into Sprint: its objective on a flow with a known solution."""

import pytest
import torch

from sana_core.samplers.schedules import scm_sigmas
from sana_core.samplers.scm import sample_scm
from tools.nano.consistency import (
    GUIDANCE_SCALES,
    consistency_loss,
    guidance_distillation_loss,
    guidance_scales,
    guided,
)


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def column(values):
    return values[:, None, None, None]


X0 = noise(16, 32, 2, 2, seed=5)


def exact(x, time, scale):
    """The flow of a data set that is one picture for each row."""
    return (x - X0) / column(time.clamp(min=1e-3))


def test_guidance_is_classifier_free_with_a_scale_for_each_sample():
    velocity = guided(lambda x, t: torch.full_like(x, 3.0), lambda x, t: torch.full_like(x, 1.0))
    found = velocity(torch.zeros(3, 32, 1, 1), torch.ones(3), torch.tensor([0.0, 1.0, 4.0]))
    assert found[:, 0, 0, 0].tolist() == [1.0, 3.0, 9.0]


def test_scales_are_those_it_is_trained_for():
    scales = guidance_scales(5000, torch.Generator().manual_seed(0))
    assert (
        GUIDANCE_SCALES[0] <= scales.min() < GUIDANCE_SCALES[0] + 0.1
        and GUIDANCE_SCALES[1] - 0.1 < scales.max() <= GUIDANCE_SCALES[1]
    )


@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_the_exact_flow_is_consistent_and_another_is_not(progress):
    """Where all paths lead straight to one picture, its velocity jumps right from every time."""

    def wrong(x, time, scale):
        return exact(x, time, scale) + 0.2 * torch.sin(5 * column(time))

    losses = [
        consistency_loss(student, exact, X0, torch.Generator().manual_seed(0), shift=2.0, progress=progress).item()
        for student in (exact, wrong)
    ]
    assert losses[0] < 1e-3 < 0.02 < losses[1]
    distilled = guidance_distillation_loss(wrong, exact, X0, torch.Generator().manual_seed(0), shift=2.0).item()
    assert (
        distilled
        > 1e-3
        > guidance_distillation_loss(exact, exact, X0, torch.Generator().manual_seed(0), shift=2.0).item()
    )


def test_distillation_teaches_to_jump():
    """A student that is one number for each of a few times, trained on a curved flow, ends a single step where the flow
    ends.
    """

    def curved(x, time, scale):
        return torch.cos(3 * column(time)).expand_as(x)  # dx/dt: x(0) = x(1) - sin(3) / 3

    knots = torch.zeros(17, requires_grad=True)

    def student(x, time, scale):
        place = time * 16
        low = place.floor().long().clamp(max=15)
        return column(torch.lerp(knots[low], knots[low + 1], place - low)).expand_as(x)

    steps, x0 = 1000, noise(64, 4, 1, 1)
    optimizer = torch.optim.Adam([knots], lr=0.02)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - step / steps)
        loss = consistency_loss(
            student, curved, x0, torch.Generator().manual_seed(step), shift=1.0, progress=step / steps
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert knots[-1].item() == pytest.approx(
        torch.tensor(3.0).sin().item() / 3, abs=0.1
    )  # mean velocity on the way; at 1 it is -0.99
    x = noise(2, 4, 2, 2)
    ended = sample_scm(
        lambda x, sigma: x - sigma * student(x, torch.full((2,), min(sigma, 1.0)), None),
        x,
        scm_sigmas(1),
        step_noise=(),
    ).detach()
    torch.testing.assert_close(ended, x - torch.tensor(3.0).sin() / 3, atol=0.1, rtol=0)
