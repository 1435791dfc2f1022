"""Grids of sigmas against published tables and closed forms."""

import pytest
import torch

from sana_core.errors import InputError
from sana_core.samplers.denoiser import model_timestep
from sana_core.samplers.schedules import (
    angle_sigmas,
    flow_dpm_sigmas,
    flow_euler_sigmas,
    img2img_tail,
    scm_sigmas,
    scm_tail,
    shifted,
)

RELEASED = {  # (steps, shift) -> timesteps the released model sees, all but the first, which is 999
    (20, 3): "982 963 944 922 899 874 847 817 785 749 710 666 617 562 499 428 345 249 136",
    (18, 3): "980 959 937 912 886 856 824 789 749 705 655 599 535 461 374 272 149",
    (14, 3): "974 947 916 881 843 799 749 691 624 545 449 333 187",
    (20, 4): "986 972 957 940 922 902 881 856 829 799 765 726 682 631 571 499 413 307 173",
    (20, 6): "991 981 971 959 947 933 917 899 879 856 830 799 763 719 666 599 513 399 239",
}


@pytest.mark.parametrize(("steps", "shift"), RELEASED)
def test_flow_dpm_timesteps(steps, shift):
    sigmas = flow_dpm_sigmas(steps, shift)
    timesteps = [int(model_timestep(sigma, truncate=True)) for sigma in sigmas[:-1].tolist()]
    assert timesteps == [999, *map(int, RELEASED[steps, shift].split())]


@pytest.mark.parametrize(("shift", "first"), [(3.0, 0.999666), (4.0, 0.999750), (6.0, 0.999833), (1.0, 0.999)])
def test_flow_dpm_first_sigma(shift, first):
    assert abs(flow_dpm_sigmas(20, shift)[0].item() - first) < 1e-6


def test_flow_euler_is_shifted_twice_at_its_end():
    timesteps = flow_euler_sigmas(28, 3.0) * 1000
    torch.testing.assert_close(
        timesteps[-6:], torch.tensor([347.39, 278.05, 199.83, 110.91, 8.93, 0.0]), atol=0.005, rtol=0
    )
    assert timesteps[0] == 1000


@pytest.mark.parametrize("grid", [flow_dpm_sigmas, flow_euler_sigmas])
@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_every_grid_descends_to_zero(grid, steps):
    sigmas = grid(steps, 3.0)
    assert sigmas.shape == (steps + 1,) and sigmas.dtype == torch.float32
    assert (sigmas.diff() < 0).all() and sigmas[-1] == 0


@pytest.mark.parametrize("grid", [flow_dpm_sigmas, flow_euler_sigmas])
@pytest.mark.parametrize(("steps", "shift"), [(0, 3.0), (-1, 3.0), (4, 0.0), (4, -2.0), (4, float("nan"))])
def test_impossible_grids(grid, steps, shift):
    with pytest.raises(InputError):
        grid(steps, shift)


@pytest.mark.parametrize(("strength", "steps"), [(1.0, 8), (0.5, 4), (0.51, 5), (0.01, 1)])
def test_img2img_keeps_the_end_of_the_grid(strength, steps):
    sigmas = flow_dpm_sigmas(8, 3.0)
    assert torch.equal(img2img_tail(sigmas, strength), sigmas[8 - steps :])


@pytest.mark.parametrize("tail", [img2img_tail, scm_tail])
@pytest.mark.parametrize("strength", [0.0, -0.1, 1.01, float("nan")])
def test_strength_has_a_range(tail, strength):
    with pytest.raises(InputError, match="strength"):
        tail(flow_dpm_sigmas(8, 3.0), strength)


@pytest.mark.parametrize(("steps", "grid"), [
    (1, [1.0, 0.0]),
    (2, [1.0, 0.782708, 0.0]),  # sin(1.3) / (sin(1.3) + cos(1.3))
    (4, [1.0, 0.707107, 0.5, 0.292893, 0.0]),  # angles of 90, 67.5, 45, 22.5 degrees
])  # fmt: skip
def test_sprint(steps, grid):
    torch.testing.assert_close(scm_sigmas(steps), torch.tensor(grid), atol=1e-5, rtol=0)  # 1e-6 by six digits
    assert scm_sigmas(steps)[0] == 1.0  # the released first angle lies beyond that


def test_sprint_takes_at_least_one_step():
    with pytest.raises(InputError, match="choose 1 to 4 for Sprint"):
        scm_sigmas(0)


def test_angles_are_flow_matching():
    """x = cos(t) * x0 + sin(t) * noise, divided by cos(t) + sin(t)."""
    angles = torch.tensor([1.5, 1.0, 0.25], dtype=torch.float64)
    sigmas, size = angle_sigmas(angles), angles.sin() + angles.cos()
    torch.testing.assert_close(sigmas.double() * size, angles.sin(), atol=1e-6, rtol=0)
    torch.testing.assert_close((1.0 - sigmas.double()) * size, angles.cos(), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("steps", "strength", "first", "rest"), [
    (2, 1.0, 1.0, [0.782708, 0.0]),
    (2, 0.5, 0.782708, [0.0]),
    (4, 0.75, 0.707107, [0.5, 0.292893, 0.0]),
    (2, 0.6, 1.0 - 0.8 * 0.217292, [0.782708, 0.0]),  # four fifths of the way from the first level to the second
    (2, 0.1, 0.2 * 0.782708, [0.0]),
    (10, 0.7, None, None),
])  # fmt: skip
def test_start_between_two_levels(steps, strength, first, rest):
    grid = scm_sigmas(steps)
    kept, tail = grid.clone(), scm_tail(grid, strength)
    if first is None:  # a whole number of steps, however it is rounded
        assert torch.equal(tail, grid[3:])
    else:
        torch.testing.assert_close(tail, torch.tensor([first, *rest]), atol=1e-5, rtol=0)  # 1e-6 by six digits
    assert torch.equal(grid, kept) and (tail.diff() < 0).all()


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("strength", [1e-9, 0.01, 0.34, 0.5, 0.66, 0.99, 0.999999])
def test_no_strength_below_1_begins_at_pure_noise(steps, strength):
    tail = scm_tail(scm_sigmas(steps), strength)
    assert 0.0 < tail[0] < 1.0 and tail[-1] == 0.0 and (tail.diff() < 0).all()


@pytest.mark.parametrize(
    ("sigma", "whole", "exact"), [(0.9996664, 999.0, 999.6664), (0.25, 250.0, 250.0), (0.0089286, 8.0, 8.9286)]
)
def test_timestep_the_model_sees(sigma, whole, exact):
    assert model_timestep(sigma, truncate=True) == whole
    assert model_timestep(sigma, truncate=False) == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize(
    ("time", "shift", "expected"), [(0.5, 3.0, 0.75), (0.5, 1.0, 0.5), (1.0, 6.0, 1.0), (0.0, 6.0, 0.0)]
)
def test_shift(time, shift, expected):
    assert shifted(torch.tensor(time), shift) == expected


def test_pytorchs_defaults_do_not_matter():
    grids = [(flow_dpm_sigmas, (7, 3.0)), (flow_euler_sigmas, (7, 3.0)), (scm_sigmas, (2,)), (scm_sigmas, (3,))]
    expected = [grid(*arguments) for grid, arguments in grids]
    torch.set_default_device("meta")
    torch.set_default_dtype(torch.float64)
    try:
        found = [grid(*arguments) for grid, arguments in grids]
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(*pair) and pair[0].dtype == torch.float32 for pair in zip(found, expected))
