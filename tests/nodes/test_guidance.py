"""Guidance and Sprint's sampler inside ComfyUI give what sana_core gives, and get along with the host's own guidance
nodes.
"""

import logging

import pytest
import torch
from agreement import assert_agree, error
from comfy import samplers as host
from comfy_extras.nodes_apg import APG as apg_node
from comfy_extras.nodes_model_advanced import ModelSamplingSD3 as sd3_node
from comfy_extras.nodes_model_advanced import RescaleCFG as rescale_node
from comfy_extras.nodes_pag import PerturbedAttentionGuidance as pag_node
from comfy_extras.nodes_slg import SkipLayerGuidanceDiT as slg_node
from e2e import in_process
from e2e.graphs import NEGATIVE, PROMPT
from sana_pack.nodes.bridge import guidance, loading, sampling
from sana_pack.sana_core import errors, latents, pipeline
from sana_pack.sana_core.samplers import schedules

SEED = 5
ALWAYS = guidance.Interval(start=0.0, end=1.0)
STEPS = 6


@pytest.fixture(scope="module")
def cores(file):
    """sana_core's pipeline around a transformer, by file name, with Sprint's guidance of the tests."""
    companions = {
        "autoencoder": file("vae", "dcae.safetensors"),
        "text_encoder": file("text_encoders", "gemma.safetensors"),
    }
    return lambda name: pipeline.load_pipeline(
        {"transformer": file("diffusion_models", name), **companions}, device="cpu"
    )


@pytest.fixture
def load(file):
    return lambda name: loading.load_model(file("diffusion_models", name))


def noise(batch=2):
    return latents.noise((batch, 32, 4, 6), SEED)


def sample(model, conditioning, *, cfg=4.5, sampler="flow_dpm", sigmas=None, given=None, start=None, **settings):
    """CFGGuider and SamplerCustomAdvanced's call, from `noise()` if none is given; latents of unit variance."""
    sigmas = sampling.make_sigmas(model, sampler, STEPS) if sigmas is None else sigmas
    given = noise() if given is None else given
    solver = sampling.make_sampler(sampler) if isinstance(sampler, str) else sampler
    return in_process.sample(model, conditioning, given, solver, sigmas, cfg=cfg, start=start, seed=SEED, **settings)


def batches(model):
    """The model, and a list that gets the batch size of each of its forwards."""
    seen = []

    def wrapper(apply_model, args):
        seen.append(len(args["input"]))
        return apply_model(args["input"], args["timestep"], **args["c"])

    model = model.clone()
    model.set_model_unet_function_wrapper(wrapper)
    return model, seen


# --- perturbed-attention guidance


@pytest.mark.parametrize("name", ["sana.safetensors", "sana15.safetensors"])
@pytest.mark.parametrize("cfg", [4.5, 1.0])
@pytest.mark.parametrize("sampler", ["flow_dpm", "flow_euler"])
def test_pag_is_that_of_the_pipeline(load, cores, conditioning, name, cfg, sampler):
    settings = {
        "steps": STEPS,
        "sampler": sampler,
        "latents": noise(),
        "batch_size": 2,
        "guidance_scale": cfg,
        "output": "latent",
    }
    expected = cores(name)(PROMPT, NEGATIVE, pag_scale=3.0, pag_layers=[1], **settings)
    model = guidance.perturbed_attention(load(name), 3.0, "1", 0.0, ALWAYS)
    found = sample(model, conditioning, cfg=cfg, sampler=sampler)
    assert_agree(found, expected, 1e-4)
    assert error(found, sample(load(name), conditioning, cfg=cfg, sampler=sampler)) > 1e-2


def test_the_models_own_block_is_the_default(load, conditioning):
    """Block 0 of two: the same part of the depth as 8 of 20."""
    found, expected = (
        guidance.perturbed_attention(load("sana.safetensors"), 2.0, layers, 0.0, ALWAYS) for layers in ("", "0")
    )
    assert torch.equal(sample(found, conditioning), sample(expected, conditioning))


def test_pag_with_sprint(load, cores, conditioning):
    expected = cores("sprint.safetensors")(
        PROMPT, latents=noise(), seed=SEED, batch_size=2, pag_scale=2.0, pag_layers=[0, 1], steps=3, output="latent"
    )
    model = guidance.perturbed_attention(load("sprint.safetensors"), 2.0, "0, 1", 0.0, ALWAYS)
    sigmas = sampling.make_sigmas(model, "scm", 3)
    assert_agree(sample(model, conditioning, cfg=1.0, sampler="scm", sigmas=sigmas), expected, 1e-4)


def test_adaptive_scale_ends_the_guidance_and_its_cost(load, conditioning):
    """It falls to 0 at timestep 500; steps below that make no perturbed prediction."""
    model, seen = batches(guidance.perturbed_attention(load("sana.safetensors"), 2.0, "1", 0.004, ALWAYS))
    sample(model, conditioning, given=noise(1))
    sigmas = sampling.make_sigmas(model, "flow_dpm", STEPS)[:-1]
    assert seen == [size for sigma in sigmas for size in ((2, 1) if sigma > 0.5 else (2,))]


@pytest.mark.parametrize("start, end", [(0.0, 0.4), (0.4, 1.0), (0.0, 0.0)])
def test_pag_in_an_interval(load, conditioning, start, end):
    interval = guidance.Interval(start=start, end=end)
    model, seen = batches(guidance.perturbed_attention(load("sana.safetensors"), 2.0, "1", 0.0, interval))
    sample(model, conditioning, given=noise(1))
    high, low = (schedules.shifted(torch.tensor(1.0 - share), 3.0).item() for share in (start, end))
    sigmas = sampling.make_sigmas(model, "flow_dpm", STEPS)[:-1].tolist()
    assert seen == [size for sigma in sigmas for size in ((2, 1) if low <= sigma <= high else (2,))]


def test_scale_0_is_no_guidance(load, conditioning):
    plain = load("sana.safetensors")
    assert torch.equal(
        sample(guidance.perturbed_attention(plain, 0.0, "1", 0.0, ALWAYS), conditioning), sample(plain, conditioning)
    )


def test_the_hosts_own_pag_does_the_same(load, conditioning):
    """It names a U-Net's middle block."""
    model = pag_node.execute(load("sana.safetensors"), 3.0).result[0]
    expected = guidance.perturbed_attention(load("sana.safetensors"), 3.0, "", 0.0, ALWAYS)
    assert_agree(sample(model, conditioning), sample(expected, conditioning), 1e-5)


@pytest.mark.parametrize("block", [("double_block", 1), ("block", 1)])
def test_other_nodes_replace_the_self_attention_of_a_block(load, conditioning, block):
    seen = []

    def replacement(query, key, value, extra_options):
        seen.append((query.shape, extra_options["block"], extra_options["n_heads"], extra_options["block_index"]))
        return value

    model = load("sana.safetensors")
    model.set_model_attn1_replace(replacement, *block)
    sample(model, conditioning, given=noise(1))
    assert set(seen) == {((2, 24, 224), ("double_block", 1), 7, 1)} and len(seen) == STEPS


def test_order_with_adaptive_projected_guidance_does_not_matter(load, conditioning):
    """APG changes the conditional prediction before guidance; the perturbed one is compared with what the model
    predicted.
    """
    settings = {"eta": 0.5, "norm_threshold": 3.0, "momentum": 0.0}
    before = apg_node.execute(
        guidance.perturbed_attention(load("sana.safetensors"), 2.0, "1", 0.0, ALWAYS), **settings
    ).result[0]
    after = guidance.perturbed_attention(
        apg_node.execute(load("sana.safetensors"), **settings).result[0], 2.0, "1", 0.0, ALWAYS
    )
    assert torch.equal(sample(before, conditioning), sample(after, conditioning))
    only_apg = apg_node.execute(load("sana.safetensors"), **settings).result[0]
    only_pag = guidance.perturbed_attention(load("sana.safetensors"), 2.0, "1", 0.0, ALWAYS)
    for other in (only_apg, only_pag):
        assert error(sample(before, conditioning), sample(other, conditioning)) > 1e-2


def test_pag_adds_up_with_skipped_layers_and_rescaled_guidance(load, conditioning):
    def skipped(model):
        return slg_node.execute(model, 1.5, 0.0, 1.0, double_layers="0").result[0]

    def rescaled(model):
        return rescale_node().patch(model, 0.7)[0]

    def perturbed(model):
        return guidance.perturbed_attention(model, 2.0, "1", 0.0, ALWAYS)

    one_step = {"sigmas": torch.tensor([0.8, 0.0]), "start": noise()}
    for other in (skipped, rescaled):
        plain, both = load("sana.safetensors"), perturbed(other(load("sana.safetensors")))
        results = [sample(model, conditioning, **one_step) for model in (plain, other(plain), perturbed(plain), both)]
        assert_agree(results[3] - results[1], results[2] - results[0], 1e-4)
        assert error(results[1], results[0]) > 1e-2


@pytest.mark.parametrize("layers, said", [
    ("2", "this model has the blocks 0 to 1"),
    ("0, 7", "in blocks 7: this model"),
    ("-1", '"-1" does not name blocks'),
    ("eight", '"eight" does not name blocks of the model: expected numbers'),
])  # fmt: skip
def test_blocks_that_are_none(load, layers, said):
    with pytest.raises(errors.InputError, match=said):
        guidance.perturbed_attention(load("sana.safetensors"), 2.0, layers, 0.0, ALWAYS)


def test_another_model_is_refused():
    class Other:
        model = object()

    with pytest.raises(errors.InputError, match="patches SANA models, got object"):
        guidance.perturbed_attention(Other(), 2.0, "", 0.0, ALWAYS)


# --- CFG interval


def test_outside_the_interval_only_the_conditional_is_predicted(load, conditioning):
    interval = guidance.Interval(start=0.2, end=0.6)
    model, seen = batches(guidance.guidance_interval(load("sana.safetensors"), interval))
    found = sample(model, conditioning, given=noise(1))
    high, low = (schedules.shifted(torch.tensor(1.0 - share), 3.0).item() for share in (0.2, 0.6))
    sigmas = sampling.make_sigmas(model, "flow_dpm", STEPS)
    guided = [low <= sigma <= high for sigma in sigmas[:-1].tolist()]
    assert seen == [2 if inside else 1 for inside in guided] and 0 < sum(guided) < STEPS

    def by_hand(args):
        scale = 4.5 if low <= args["sigma"][0].item() <= high else 1.0
        return args["uncond"] + scale * (args["cond"] - args["uncond"])

    expected = load("sana.safetensors")
    expected.set_model_sampler_cfg_function(by_hand)
    assert_agree(found, sample(expected, conditioning, given=noise(1)), 1e-5)


def test_the_whole_interval_changes_nothing(load, conditioning):
    model = load("sana.safetensors")
    assert torch.equal(sample(guidance.guidance_interval(model, ALWAYS), conditioning), sample(model, conditioning))


def test_intervals_nest_and_leave_pag_alone(load, conditioning):
    """Two intervals work where both do; PAG outside them too."""
    first, second = guidance.Interval(start=0.0, end=0.6), guidance.Interval(start=0.2, end=1.0)
    nested = guidance.guidance_interval(guidance.guidance_interval(load("sana.safetensors"), first), second)
    both = guidance.guidance_interval(load("sana.safetensors"), guidance.Interval(start=0.2, end=0.6))
    assert torch.equal(sample(nested, conditioning), sample(both, conditioning))
    model, seen = batches(guidance.perturbed_attention(both, 2.0, "1", 0.0, ALWAYS))
    sample(model, conditioning, given=noise(1))
    assert seen[1::2] == [1] * STEPS and set(seen[::2]) == {1, 2}


@pytest.mark.parametrize("start, end", [(0.5, 0.4), (-0.1, 1.0), (0.0, 1.1)])
def test_intervals_that_are_none(start, end):
    with pytest.raises(errors.InputError, match="expected 0 <= start <= end <= 1"):
        guidance.Interval(start=start, end=end)


# --- Sprint


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7])
def test_scm_is_the_hosts_lcm_on_the_same_noise(load, conditioning, steps):
    model = load("sprint.safetensors")
    sigmas, draws = sampling.make_sigmas(model, "scm", steps), latents.noises(noise().shape, SEED)
    next(draws)
    lcm = host.ksampler("lcm", {"noise_sampler": lambda sigma, lower: next(draws)})
    found = sample(model, conditioning, cfg=1.0, sampler="scm", sigmas=sigmas)
    assert_agree(found, sample(model, conditioning, cfg=1.0, sampler=lcm, sigmas=sigmas), 1e-5)  # 1.2e-6 was seen


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_a_seed_gives_the_pipelines_picture(load, cores, clip, steps):
    request = pipeline.Request(PROMPT, negative_prompt=NEGATIVE, seed=SEED, steps=steps, guidance_scale=3.0)
    model = load("sprint.safetensors")
    latent = sampling.generate(model, clip, request, latent=sampling.empty_latent(192, 128, 2))
    expected = cores("sprint.safetensors")(
        PROMPT, width=192, height=128, batch_size=2, steps=steps, guidance_scale=3.0, seed=SEED, output="latent"
    )
    assert_agree(model.model.latent_format.process_in(latent["samples"]), expected, 1e-4)


def test_the_hosts_simple_schedule_is_sprints_of_two_steps(load, conditioning):
    model = load("sprint.safetensors")
    simple = host.calculate_sigmas(model.get_model_object("model_sampling"), "simple", 2)
    torch.testing.assert_close(simple, sampling.make_sigmas(model, "scm", 2), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "steps, denoise, grid_steps", [(1, 0.5, 2), (2, 0.5, 4), (2, 0.6, 3), (3, 0.75, 4), (2, 0.9, 2)]
)
def test_image_to_image_with_sprint(load, cores, conditioning, steps, denoise, grid_steps):
    """The node makes `steps` steps at the end of a longer grid; the pipeline counts the steps of the whole grid."""
    model, core = load("sprint.safetensors"), cores("sprint.safetensors")
    image = torch.rand(1, 3, 128, 192, generator=torch.Generator().manual_seed(1))
    start = model.model.latent_format.process_out(core.encode_image(image, core.resolve("", width=192, height=128)))
    sigmas = sampling.make_sigmas(model, "scm", steps, denoise=denoise)
    assert len(sigmas) == steps + 1 and sigmas[0] < 0.99
    found = sample(model, conditioning, cfg=1.0, sampler="scm", sigmas=sigmas, given=noise(1), start=start)
    expected = core(PROMPT, image=image, strength=denoise, steps=grid_steps, seed=SEED, output="latent")
    assert_agree(found, expected, 1e-4)


def test_inpaint_with_sprint(load, cores, conditioning):
    model, core = load("sprint.safetensors"), cores("sprint.safetensors")
    image = torch.rand(1, 3, 128, 192, generator=torch.Generator().manual_seed(1))
    original = core.encode_image(image, core.resolve("", width=192, height=128))
    mask = torch.zeros(1, 1, 4, 6)
    mask[..., :3] = 1.0
    start = model.model.latent_format.process_out(original)
    sigmas = sampling.make_sigmas(model, "scm", 2)
    found = sample(
        model, conditioning, cfg=1.0, sampler="scm", sigmas=sigmas, given=noise(1), start=start, denoise_mask=mask
    )
    expected = core(
        PROMPT, image=image, mask=mask.repeat_interleave(32, 2).repeat_interleave(32, 3)[0], seed=SEED, output="latent"
    )
    for result in (found, expected):
        assert_agree(result[..., 3:], original[..., 3:], 1e-4)
        assert error(result[..., :3], original[..., :3]) > 0.1


# --- pairs that do not go together


def test_sprints_sampler_on_a_base_model_is_refused(load, conditioning):
    model = load("sana.safetensors")
    said = "SANA-Sprint was distilled for, and this model is a SANA of 2 blocks.*choose flow_dpm"
    with pytest.raises(errors.InputError, match=said):
        sampling.make_sigmas(model, "scm", 2)
    with pytest.raises(errors.InputError, match=said):
        sample(model, conditioning, sampler="scm", sigmas=torch.tensor([1.0, 0.0]))


def test_a_base_models_sampler_on_sprint_is_warned_of(load, caplog):
    with caplog.at_level(logging.WARNING, "sana"):
        sampling.make_sigmas(load("sprint.safetensors"), "flow_dpm", 2)
    assert (
        "flow_dpm follows the flow of a base SANA model" in caplog.text
        and "choose scm with 1 to 4 steps" in caplog.text
    )


def test_a_4k_model_at_shift_3_is_warned_of_once_per_run(file, conditioning, caplog):
    model = loading.load_model(file("diffusion_models", "sana.safetensors"), "4k")
    shifted = sd3_node().patch(model, 3.0)[0]
    with caplog.at_level(logging.WARNING, "sana"):
        sample(shifted, conditioning, given=noise(1))
    said = "flow shift 3 on a SANA model of 4096 x 4096 pixels that was released with 6"
    assert [record.getMessage()[: len(said)] for record in caplog.records if "shift" in record.getMessage()] == [said]
    caplog.clear()
    sample(model, conditioning, given=noise(1))
    assert not caplog.records
    with caplog.at_level(logging.WARNING, "sana"):
        sampling.make_sigmas(model, "flow_dpm", 4, shift=3.0)
    assert said in caplog.text
