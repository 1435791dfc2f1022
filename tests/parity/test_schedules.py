"""Grids, timesteps, solvers and trained sizes against diffusers, its oracle included."""

import pytest
import torch
from agreement import assert_agree

from sana_core.latents import RESOLUTION_BINS, closest_bin
from sana_core.samplers.denoiser import model_timestep
from sana_core.samplers.flow_dpm import sample_flow_dpm
from sana_core.samplers.flow_euler import sample_flow_euler
from sana_core.samplers.schedules import flow_dpm_sigmas, flow_euler_sigmas

diffusers = pytest.importorskip("diffusers", reason="diffusers is the reference these tests compare with")

GRIDS = {"dpm": flow_dpm_sigmas, "euler": flow_euler_sigmas}


@pytest.mark.parametrize("kind", GRIDS)
def test_oracle(oracle, kind):
    cases = [
        key.split("/")[1]
        for key in oracle.reference
        if key.startswith(f"schedules/{kind}_") and key.endswith("/sigmas")
    ]
    assert len(cases) == 36
    for case in cases:
        _, steps, shift = case.split("_")
        sigmas = GRIDS[kind](int(steps), float(shift.removeprefix("shift")))
        assert_agree(sigmas, oracle.reference[f"schedules/{case}/sigmas"], 1e-6)
        timesteps = torch.tensor([model_timestep(sigma, truncate=kind == "dpm") for sigma in sigmas[:-1].tolist()])
        check = check_whole if kind == "dpm" else check_fractional
        check(timesteps, oracle.reference[f"schedules/{case}/timesteps"], sigmas[:-1] * 1000)


def check_fractional(found, expected, exact):
    assert_agree(found, expected, 1e-6)


def check_whole(found, expected, exact):
    """Equal, but where 1000 * sigma is a whole number: rounding decides there on which side of it truncation starts."""
    tie = (exact - exact.round()).abs() < 1e-3
    assert torch.equal(found[~tie].long(), expected[~tie]) and (found - expected).abs().max() <= 1


def scheduler(kind, shift):
    if kind == "euler":
        return diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    return diffusers.DPMSolverMultistepScheduler(
        flow_shift=shift, use_flow_sigmas=True, prediction_type="flow_prediction"
    )


def velocity(x, sigma):
    return torch.tanh(x * (1.5 + sigma)) - 0.4 * x + 0.3 * torch.sin(5.0 * x - sigma)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(("steps", "shift"), [(1, 3.0), (2, 3.0), (5, 2.5), (14, 3.0), (20, 6.0), (33, 1.0)])
@pytest.mark.parametrize(("kind", "solver"), [("dpm", sample_flow_dpm), ("euler", sample_flow_euler)])
def test_solver_on_the_same_field(kind, solver, steps, shift, seed):
    x = torch.randn(4, 32, 3, 5, generator=torch.Generator().manual_seed(seed))
    theirs, expected, path = scheduler(kind, shift), x.clone(), []
    theirs.set_timesteps(steps)
    for index, timestep in enumerate(theirs.timesteps):
        expected = theirs.step(velocity(expected, theirs.sigmas[index].item()), timestep, expected, return_dict=False)[
            0
        ]
        path.append(expected)
    found = []
    solver(
        lambda x, sigma: x - sigma * velocity(x, sigma),
        x,
        GRIDS[kind](steps, shift),
        callback=lambda i, s, x, x0: found.append(x),
    )
    assert_agree(torch.stack(found), torch.stack(path), 1e-5)


def test_resolution_bins():
    from diffusers.image_processor import PixArtImageProcessor
    from diffusers.pipelines.pixart_alpha.pipeline_pixart_alpha import ASPECT_RATIO_512_BIN, ASPECT_RATIO_1024_BIN
    from diffusers.pipelines.pixart_alpha.pipeline_pixart_sigma import ASPECT_RATIO_2048_BIN
    from diffusers.pipelines.sana.pipeline_sana import ASPECT_RATIO_4096_BIN

    tables = {
        512: ASPECT_RATIO_512_BIN,
        1024: ASPECT_RATIO_1024_BIN,
        2048: ASPECT_RATIO_2048_BIN,
        4096: ASPECT_RATIO_4096_BIN,
    }
    for native, table in tables.items():
        assert RESOLUTION_BINS[native] == {
            float(ratio): (int(height), int(width)) for ratio, (height, width) in table.items()
        }
        for height in range(100, 5000, 173):
            for width in range(90, 5000, 191):
                assert closest_bin(height, width, native) == PixArtImageProcessor.classify_height_width_bin(
                    height, width, table
                )
