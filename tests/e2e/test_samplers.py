"""ComfyUI's own samplers, schedules and guiders on SANA, on a real server.

The host's samplers are taken as they are: they have to make of the pack's network what they make of sana_core's, which
`Parts(plain=True)` puts in its place. Where a schedule is a formula the result is that of sana_core's Euler on it.
"""

import pytest
import torch
from agreement import assert_agree, error
from e2e.expected import Core, shifted
from e2e.graphs import KSAMPLER, NEGATIVE, PROMPT, latents

TOLERANCE = 1e-4
SAMPLERS = (
    "dpmpp_2m", "dpmpp_2m_sde", "uni_pc", "res_multistep", "lcm", "er_sde", "heun", "ddim", "euler_ancestral",
)  # fmt: skip
LAST = 0.001  # the shortest of the host's 1000 times
GRIDS = {  # a schedule of three steps, by the model's shift
    "simple": lambda shift: shifted(torch.tensor([1.0, 0.667, 0.334]), shift),
    "normal": lambda shift: shifted(torch.linspace(1.0, shifted(LAST, shift), 3), shift),
    "sgm_uniform": lambda shift: shifted(torch.linspace(1.0, shifted(LAST, shift), 4), shift)[:3],
    "karras": lambda shift: torch.linspace(1.0, shifted(LAST, shift) ** (1 / 7), 3) ** 7,
    "exponential": lambda shift: shifted(LAST, shift) ** torch.linspace(0.0, 1.0, 3),
}


@pytest.fixture(scope="module")
def core(server):
    return Core(server)


@pytest.fixture(scope="module")
def usual(core):
    """The run that every graph here makes unless it says otherwise: Euler, "simple", three steps."""
    return core.ksampler()


def of_both_networks(server, build):
    """The pack's result, and that of sana_core's network in its place."""
    return tuple(latents(server, build, plain=plain) for plain in (False, True))


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers(server, usual, name):
    found, expected = of_both_networks(server, lambda parts: parts.sample(sampler_name=name))
    assert_agree(found, expected, TOLERANCE)
    if name == "ddim":
        assert_agree(found, usual, TOLERANCE)  # for flow matching it is Euler
    else:
        assert error(found, usual) > 1e-2


@pytest.mark.parametrize("name", GRIDS)
def test_schedules_by_their_formula(server, core, name):
    found = latents(server, lambda parts: parts.sample(scheduler=name))
    grid = torch.cat([GRIDS[name](core.shift()), torch.zeros(1)])
    assert_agree(found, core.ksampler(grid=grid), TOLERANCE)


@pytest.mark.parametrize("name", ["beta", "kl_optimal", "linear_quadratic"])
def test_other_schedules(server, usual, name):
    found, expected = of_both_networks(server, lambda parts: parts.sample(scheduler=name))
    assert_agree(found, expected, TOLERANCE)
    assert error(found, usual) > 1e-2


# --- the same run by other nodes


def in_two_parts(parts):
    settings = {"noise_seed": KSAMPLER["seed"], **{key: KSAMPLER[key] for key in ("steps", "cfg")}}
    settings |= {key: KSAMPLER[key] for key in ("sampler_name", "scheduler")}
    first = {"add_noise": "enable", "start_at_step": 0, "end_at_step": 2, "return_with_leftover_noise": "enable"}
    second = {"add_noise": "disable", "start_at_step": 2, "end_at_step": 99, "return_with_leftover_noise": "disable"}
    half = parts.g.add("KSamplerAdvanced", **settings, **first, **parts.links())
    return parts.g.add("KSamplerAdvanced", **settings, **second, **parts.links(latent_image=half))


def custom(parts):
    sampler = parts.g.add("KSamplerSelect", sampler_name="euler")
    sigmas = parts.g.add("BasicScheduler", model=parts.model, scheduler="simple", steps=3, denoise=1.0)
    noise = {"add_noise": True, "noise_seed": KSAMPLER["seed"], "cfg": KSAMPLER["cfg"]}
    return parts.g.add("SamplerCustom", **noise, sampler=sampler, sigmas=sigmas, **parts.links())


def custom_advanced(parts):
    return parts.advanced()


def split_sigmas(parts):
    g = parts.g
    whole = g.add("BasicScheduler", model=parts.model, scheduler="simple", steps=3, denoise=1.0)
    parted = g.add("SplitSigmas", sigmas=whole, step=1)
    first = parts.advanced(sigmas=parted[0])
    return parts.advanced(sigmas=parted[1], latent=first, noise=g.add("DisableNoise"))


@pytest.mark.parametrize("build", [in_two_parts, custom, custom_advanced, split_sigmas])
def test_the_same_run_by_other_nodes(server, usual, build):
    assert_agree(latents(server, build), usual, TOLERANCE)


# --- guiders


def test_without_guidance(server, core):
    expected = core.ksampler(cfg=1.0)
    assert_agree(latents(server, lambda parts: parts.sample(cfg=1.0)), expected, TOLERANCE)

    def basic_guider(parts):
        return parts.advanced(parts.g.add("BasicGuider", model=parts.model, conditioning=parts.positive))

    assert_agree(latents(server, basic_guider), expected, TOLERANCE)


def test_dual_guidance(server, usual):
    """Two positive prompts with a scale each."""

    def build(parts):
        third = parts.g.add("CLIPTextEncode", clip=parts.clip, text="")
        links = {"model": parts.model, "cond1": parts.positive, "cond2": parts.negative, "negative": third}
        return parts.advanced(
            parts.g.add("DualCFGGuider", **links, cfg_conds=4.0, cfg_cond2_negative=2.0, style="regular")
        )

    found, expected = of_both_networks(server, build)
    assert_agree(found, expected, TOLERANCE)
    assert error(found, usual) > 1e-2


# --- the pack's own nodes, against the pipeline

SETTINGS = {"width": 128, "height": 96, "steps": 3, "seed": KSAMPLER["seed"], "output": "latent"}


def test_sana_sampler_and_sigmas(server, core):
    def build(parts):
        parts.negative = parts.g.add("SanaNativeTextEncode", clip=parts.clip, text=NEGATIVE, instruction="none")
        schedule = {"schedule": "flow_dpm", "steps": 3, "shift": 0.0, "denoise": 1.0}
        sigmas = parts.g.add("SanaNativeSigmas", model=parts.model, **schedule)
        return parts.advanced(sampler=parts.g.add("SanaNativeSampler", sampler="flow_dpm"), sigmas=sigmas)

    expected = core.pipeline(PROMPT, NEGATIVE, guidance_scale=KSAMPLER["cfg"], **SETTINGS)
    assert_agree(latents(server, build), expected, TOLERANCE)


def test_sana_generate(server, core):
    def build(parts):
        settings = {"width": 128, "height": 96, "seed": KSAMPLER["seed"], "steps": 3, "cfg": 0.0, "denoise": 1.0}
        links = {"model": parts.model, "clip": parts.clip}
        return parts.g.add("SanaNativeGenerate", **links, prompt=PROMPT, negative_prompt="", **settings)

    assert_agree(latents(server, build), core.pipeline(PROMPT, **SETTINGS), TOLERANCE)
