"""Solvers on fields whose solution is known."""

import math

import pytest
import torch

from sana_core.samplers.flow_dpm import sample_flow_dpm
from sana_core.samplers.flow_euler import sample_flow_euler
from sana_core.samplers.schedules import flow_dpm_sigmas, flow_euler_sigmas, scm_sigmas
from sana_core.samplers.scm import sample_scm

SOLVERS = [sample_flow_dpm, sample_flow_euler]
SPREAD = 0.5  # standard deviation of the Gaussian data


def gaussian_denoiser(x, sigma):
    """Mean of x0 ~ N(0, SPREAD^2) given x = sigma * noise + (1 - sigma) * x0."""
    alpha = 1.0 - sigma
    return alpha * SPREAD**2 / (alpha**2 * SPREAD**2 + sigma**2) * x


def gaussian_path(x, start, end):
    """Where the probability flow of that data carries x: it keeps its place among the standard deviations."""
    deviation = [math.hypot((1.0 - sigma) * SPREAD, sigma) for sigma in (start, end)]
    return x * deviation[1] / deviation[0]


def curved_denoiser(x, sigma):
    return torch.tanh(x * (1.5 + sigma)) + 0.3 * torch.sin(5.0 * x - sigma)


@pytest.fixture
def x():
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(("solver", "order"), [(sample_flow_euler, 1), (sample_flow_dpm, 2)])
def test_order_of_convergence(solver, order, x):
    def error(steps):
        sigmas = torch.linspace(0.9, 0.1, steps + 1, dtype=torch.float64)
        return (solver(gaussian_denoiser, x, sigmas) - gaussian_path(x, 0.9, 0.1)).abs().max().item()

    found = math.log2(error(64) / error(128))
    assert abs(found - order) < 0.15


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("grid", [flow_dpm_sigmas, flow_euler_sigmas])
@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_constant_prediction_is_a_straight_line(solver, grid, steps, x):
    noise, x0, sigmas = x, torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(3, 4), grid(steps, 3.0)
    first = sigmas[0].item()
    path = []
    end = solver(
        lambda x, sigma: x0, first * noise + (1 - first) * x0, sigmas, callback=lambda i, sigma, x, x0: path.append(x)
    )
    for x, sigma in zip(path, sigmas[1:].tolist()):
        torch.testing.assert_close(x, sigma * noise + (1 - sigma) * x0, atol=1e-12, rtol=0)
    assert torch.equal(end, x0)


def paper_update(x, sigmas, denoise):
    """DPM-Solver++ 2M as in the paper (arXiv:2211.01095, eq. 13 and algorithm 2), step by step in lambda."""
    previous = h_previous = None
    for s, t in zip(sigmas.tolist(), sigmas.tolist()[1:]):
        x0 = denoise(x, s)
        if t == 0:
            return x0
        h = math.log((1 - t) / t) - math.log((1 - s) / s)
        d = x0 if previous is None else (1 + h / (2 * h_previous)) * x0 - h / (2 * h_previous) * previous
        x = t / s * x - (1 - t) * math.expm1(-h) * d
        previous, h_previous = x0, h
    return x


@pytest.mark.parametrize("steps", [2, 3, 8, 20])
@pytest.mark.parametrize("end", [None, -1])
def test_flow_dpm_is_the_update_of_the_paper(steps, end, x):
    sigmas = flow_dpm_sigmas(steps, 3.0)[:end]
    expected = paper_update(x, sigmas, curved_denoiser)
    torch.testing.assert_close(sample_flow_dpm(curved_denoiser, x, sigmas), expected, atol=1e-11, rtol=0)


def test_second_order_is_not_first_order(x):
    sigmas = flow_dpm_sigmas(8, 3.0)
    difference = sample_flow_dpm(curved_denoiser, x, sigmas) - sample_flow_euler(curved_denoiser, x, sigmas)
    assert difference.abs().max() > 1e-3


def test_flow_dpm_starts_from_pure_noise(x):
    """At sigma 1 lambda is infinite: that step and the next are of first order, later ones of second."""
    sigmas = torch.tensor([1.0, 0.7, 0.4, 0.2], dtype=torch.float64)
    found, first_order = (
        sample_flow_dpm(curved_denoiser, x, sigmas[:3]),
        sample_flow_euler(curved_denoiser, x, sigmas[:3]),
    )
    torch.testing.assert_close(found, first_order, atol=1e-14, rtol=0)
    whole = sample_flow_dpm(curved_denoiser, x, sigmas)
    assert whole.isfinite().all() and not torch.allclose(whole, sample_flow_euler(curved_denoiser, x, sigmas))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("sigmas", [[], [0.7]])
def test_without_a_step_nothing_happens(solver, sigmas, x):
    def denoise(x, sigma):
        raise AssertionError("no step, no prediction")

    assert solver(denoise, x, torch.tensor(sigmas)) is x


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("repeated", [1.0, 0.9, 0.5, 0.2, 0.1], ids=str)
def test_repeated_sigma_is_a_step_of_length_zero(solver, repeated, x):
    """It is forgotten, too: the second order goes on as if it had not been."""
    once = [1.0, 0.9, 0.5, 0.2, 0.1, 0.0]
    twice = sorted([*once, repeated, repeated], reverse=True)
    results = [solver(curved_denoiser, x, torch.tensor(sigmas)) for sigmas in (once, twice)]
    assert torch.equal(*results) and results[0].isfinite().all()


@pytest.mark.parametrize("solver", [*SOLVERS, sample_scm])
@pytest.mark.parametrize("end", [[0.0], [0.0, 0.0], [0.0, 0.0, 0.0]], ids=len)
def test_grids_that_end_in_several_zeros(solver, end, x):
    """A step from 0 is none: the model is not asked, and x stays."""
    seen, noises = [], draws(3, x)

    def denoise(x, sigma):
        seen.append(sigma)
        return curved_denoiser(x, sigma)

    found = solver(denoise, x, torch.tensor([0.9, 0.5, 0.2, *end]), step_noise=noises, callback=lambda *step: None)
    assert torch.equal(found, solver(curved_denoiser, x, torch.tensor([0.9, 0.5, 0.2, 0.0]), step_noise=noises))
    assert seen == pytest.approx([0.9, 0.5, 0.2]) and found.isfinite().all()


@pytest.mark.parametrize("solver", [*SOLVERS, sample_scm])
@pytest.mark.parametrize("sigmas", [[0.0, 0.0], [0.0, 0.0, 0.0]], ids=len)
def test_nothing_but_zeros(solver, sigmas, x):
    assert solver(lambda x, sigma: pytest.fail("there is no noise to remove"), x, torch.tensor(sigmas)) is x


def test_the_other_solvers_draw_no_noise(x):
    def noises():
        pytest.fail("noise was drawn")
        yield x

    for solver in SOLVERS:
        solver(curved_denoiser, x, flow_dpm_sigmas(3, 3.0), step_noise=noises())


@pytest.mark.parametrize("solver", SOLVERS)
def test_callback_sees_every_step(solver, x):
    seen, sigmas = [], flow_dpm_sigmas(4, 3.0)
    end = solver(curved_denoiser, x, sigmas, callback=lambda *step: seen.append(step))
    assert [(index, sigma) for index, sigma, _, _ in seen] == list(enumerate(sigmas[:-1].tolist()))
    assert torch.equal(seen[-1][2], end) and torch.equal(seen[-1][3], end)
    assert torch.equal(seen[0][3], curved_denoiser(x, sigmas[0].item()))


@pytest.mark.parametrize("solver", SOLVERS)
def test_float32_stays_float32(solver, x):
    start = x.float()
    before = start.clone()
    assert solver(curved_denoiser, start, flow_dpm_sigmas(4, 3.0)).dtype == torch.float32
    assert torch.equal(start, before)


# --- SCM


def draws(count, x):
    generator = torch.Generator().manual_seed(8)
    return [torch.randn(x.shape, generator=generator, dtype=x.dtype) for _ in range(count)]


def trigflow(denoise, noise, angles, step_noise):
    """The released sampler as it is written: angles, data deviation 0.5 (SANA-Sprint, arXiv:2503.09641, sec. 3).
    Returns x0 at the end.
    """
    x = 0.5 * noise
    for s, t, drawn in zip(angles, angles[1:], step_noise):
        size = math.sin(s) + math.cos(s)
        sigma = math.sin(s) / size
        x_in = x / 0.5 * math.hypot(sigma, 1.0 - sigma)
        velocity = (x / 0.5 / size - denoise(x / 0.5 / size, sigma)) / sigma
        model = (
            ((1 - 2 * sigma) * x_in + (1 - 2 * sigma + 2 * sigma**2) * velocity) / math.hypot(sigma, 1.0 - sigma) * 0.5
        )
        x0 = math.cos(s) * x - math.sin(s) * model
        x = math.cos(t) * x0 + math.sin(t) * 0.5 * drawn
    return x / 0.5


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 10])
def test_scm_is_the_trigonometric_sampler(steps, x):
    angles = (
        [math.pi / 2, 1.3, 0.0]
        if steps == 2
        else torch.linspace(math.pi / 2, 0.0, steps + 1, dtype=torch.float64).tolist()
    )
    noises = draws(steps, x)
    expected = trigflow(curved_denoiser, x, angles, noises)
    sigmas = torch.tensor([math.sin(t) / (math.sin(t) + math.cos(t)) for t in angles], dtype=torch.float64)
    torch.testing.assert_close(sample_scm(curved_denoiser, x, sigmas, step_noise=noises), expected, atol=1e-12, rtol=0)


def test_scm_of_a_perfect_model_ends_on_the_data(x):
    """A consistency model knows x0 from any level; fresh noise in between changes nothing then."""
    x0 = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(3, 4)
    path, sigmas, noises = [], scm_sigmas(4), draws(3, x)
    end = sample_scm(lambda x, sigma: x0, x, sigmas, step_noise=noises, callback=lambda i, sigma, x, x0: path.append(x))
    for state, sigma, noise in zip(path, sigmas[1:-1].tolist(), noises):
        torch.testing.assert_close(state, sigma * noise + (1 - sigma) * x0, atol=1e-12, rtol=0)
    assert torch.equal(end, x0)


def test_scm_draws_once_for_each_step_but_the_last(x):
    drawn = iter(draws(5, x))
    sample_scm(curved_denoiser, x, scm_sigmas(4), step_noise=drawn)
    assert len(list(drawn)) == 2
    assert torch.equal(sample_scm(curved_denoiser, x, torch.tensor([0.7]), step_noise=[]), x)


def test_scm_keeps_float32_and_its_input(x):
    start = x.float()
    before, seen = start.clone(), []
    end = sample_scm(
        curved_denoiser, start, scm_sigmas(2), step_noise=draws(1, x), callback=lambda *step: seen.append(step)
    )
    assert end.dtype == torch.float32 and torch.equal(start, before)
    assert [index for index, *_ in seen] == [0, 1] and torch.equal(seen[-1][2], end) and torch.equal(seen[-1][3], end)
