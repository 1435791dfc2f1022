"""Flow matching: times, the noisy latents, and the loss on fields with a known answer."""

import pytest
import torch

from sana_core.training.flow import flow_matching_loss, logit_normal_times, noisy


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_times_are_logit_normal_and_shifted(shift):
    time = logit_normal_times(20_000, generator(), shift=shift)
    assert time.min() > 0 and time.max() < 1
    logits = time.logit() - torch.tensor(shift).log()  # a shift moves the logit by its logarithm
    assert logits.mean().item() == pytest.approx(0.0, abs=0.03)
    assert logits.std().item() == pytest.approx(1.0, abs=0.03)


def test_noisy_latents_go_from_the_picture_to_noise():
    x0, noise = torch.randn(3, 32, 2, 2, generator=generator()), torch.randn(3, 32, 2, 2, generator=generator(1))
    found = noisy(x0, noise, torch.tensor([0.0, 0.25, 1.0]))
    torch.testing.assert_close(found[0], x0[0])
    torch.testing.assert_close(found[1], 0.75 * x0[1] + 0.25 * noise[1])
    torch.testing.assert_close(found[2], noise[2])


def test_the_right_velocity_has_no_loss_and_zero_has_two():
    x0 = torch.randn(64, 32, 4, 4, generator=generator(2))

    def right(x, time):
        return (x - x0) / time[:, None, None, None]  # noise - x0, where x = (1 - t) x0 + t noise

    assert flow_matching_loss(right, x0, generator()).item() < 1e-6
    assert flow_matching_loss(lambda x, time: torch.zeros_like(x), x0, generator()).item() == pytest.approx(
        2.0, abs=0.05
    )


def test_a_seed_is_one_loss():
    x0 = torch.randn(4, 32, 2, 2, generator=generator(3))
    losses = [flow_matching_loss(lambda x, time: x, x0, generator(seed)) for seed in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]
