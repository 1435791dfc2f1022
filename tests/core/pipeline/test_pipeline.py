"""The pipeline on a whole tiny random SANA, loaded from files."""

import dataclasses
import math

import pytest
import tiny
import tiny_pipeline
import torch
from PIL import Image
from safetensors.torch import save_file

from sana_core.config import SamplingDefaults
from sana_core.errors import CheckpointError, InputError
from sana_core.latents import noise
from sana_core.pipeline import load_pipeline
from sana_core.samplers.schedules import flow_dpm_sigmas
from sana_core.transformer.controlnet import SanaControlNet

SHAPE = (1, 32, 2, 3)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return tiny_pipeline.write_files(tmp_path_factory.mktemp("sana"))


@pytest.fixture(scope="module")
def pipeline(files):
    return load_pipeline(files, device="cpu")


def close(found, expected):
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_defaults_stand_in_the_file(pipeline):
    assert pipeline.defaults == SamplingDefaults(**tiny_pipeline.SAMPLING)
    picture = pipeline("a cat", seed=1)[0]
    assert picture.size == (96, 64) and picture.mode == "RGB"


def test_outputs(pipeline):
    latents, image = (pipeline("a cat", seed=1, output=output) for output in ("latent", "tensor"))
    assert latents.shape == SHAPE and latents.dtype == torch.float32
    assert image.shape == (1, 3, 64, 96) and image.dtype == torch.float32 and image.min() >= 0 and image.max() <= 1
    close(pipeline.decode(latents, pil=False), image)
    pixels = torch.frombuffer(bytearray(pipeline("a cat", seed=1)[0].tobytes()), dtype=torch.uint8).reshape(64, 96, 3)
    assert torch.equal(pixels, (image[0] * 255).round().byte().permute(1, 2, 0))


def test_a_seed_is_its_noise(pipeline):
    first, again, other = (pipeline("a cat", seed=seed, output="latent") for seed in (5, 5, 6))
    assert torch.equal(first, again) and not torch.allclose(first, other, atol=0.1)
    given = noise(SHAPE, 5)
    kept = given.clone()
    assert torch.equal(pipeline("a cat", latents=given, output="latent"), first)
    assert torch.equal(given, kept)


def test_with_seeds_every_picture_is_the_one_of_its_own_seed(pipeline):
    prompts, seeds = ["a cat", "a small fluffy red apple"], [3, 2**40]
    together = pipeline(prompts, seeds=seeds, output="latent")
    for prompt, seed, latent in zip(prompts, seeds, together):
        close(latent, pipeline(prompt, seed=seed, output="latent")[0])
    with pytest.raises(InputError, match="1 seeds for 2 pictures"):
        pipeline(prompts, seeds=[3])


def test_without_a_seed_every_picture_is_another(pipeline):
    assert not torch.equal(pipeline("a cat", output="latent"), pipeline("a cat", output="latent"))


def test_batch_equals_single_pictures(pipeline):
    """Two prompts of different length, two negative ones, two pictures each, in the order of the prompts."""
    prompts, negatives = ["a cat", "a small fluffy red apple on a wooden table"], ["blurry, low quality", ""]
    latents = noise((4, 32, 2, 3), 3)
    together = pipeline(prompts, negatives, latents=latents, batch_size=2, output="latent")
    for item, (prompt, negative) in enumerate(
        zip([p for p in prompts for _ in "12"], [n for n in negatives for _ in "12"])
    ):
        close(together[item : item + 1], pipeline(prompt, negative, latents=latents[item : item + 1], output="latent"))
    close(pipeline(prompts, negatives, seed=3, batch_size=2, output="latent"), together)


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "a dog"},
        {"negative_prompt": "blurry"},
        {"guidance_scale": 1.0},
        {"instruction": None},
        {"instruction": "draw:"},
        {"sampler": "flow_euler"},
        {"shift": 5.0},
        {"steps": 4},
    ],
    ids=str,
)
def test_every_setting_counts(pipeline, change):
    plain = {"prompt": "a cat", "seed": 1, "output": "latent"}
    assert (pipeline(**plain) - pipeline(**{**plain, **change})).abs().max() > 1e-3


def test_instruction_is_not_for_negative_prompts(pipeline):
    """With the same text on both sides guidance does nothing, so the instruction is seen in the difference."""
    states = []
    encode = pipeline.text_encoder.register_forward_hook(lambda module, args, output: states.append(args[0]))
    with encode:
        pipeline("a cat", "a cat", seed=1, instruction="draw: ", steps=1)
    (positive,), (negative,) = states
    assert len(positive) > len(negative) and positive.tolist()[0] == negative.tolist()[0]


def test_callback_follows_the_latents(pipeline):
    seen = []
    end = pipeline("a cat", seed=1, steps=4, output="latent", callback=lambda *step: seen.append(step))
    assert [index for index, *_ in seen] == [0, 1, 2, 3]
    assert [sigma for _, sigma, *_ in seen] == flow_dpm_sigmas(4, tiny_pipeline.SAMPLING["shift"])[:-1].tolist()
    assert torch.equal(seen[-1][2], end) and all(x0.shape == SHAPE for *_, x0 in seen)


@pytest.fixture(scope="module")
def picture():
    pixels = torch.rand(8, 12, 3, generator=torch.Generator().manual_seed(2))
    return Image.fromarray((pixels * 255).byte().numpy()).resize((96, 64), Image.Resampling.BICUBIC)


def test_img2img_starts_from_the_picture(pipeline, picture):
    """The first prediction sees exactly sigma * noise + (1 - sigma) * picture."""
    seen, steps = [], 10
    hook = pipeline.transformer.register_forward_pre_hook(lambda module, args: seen.append(args[0][:1]))
    with hook:
        pipeline("a cat", seed=1, image=picture, strength=0.3, steps=steps)
    sigma = flow_dpm_sigmas(steps, tiny_pipeline.SAMPLING["shift"])[7].item()
    original = pipeline.encode_image(picture, pipeline.defaults)
    assert len(seen) == 3
    close(seen[0], sigma * noise(SHAPE, 1) + (1 - sigma) * original)


def test_less_strength_stays_nearer_to_the_picture(pipeline, picture):
    original = pipeline.encode_image(picture, pipeline.defaults)
    results = [
        pipeline("a cat", seed=1, image=picture, strength=s, steps=10, guidance_scale=1.0, output="latent")
        for s in (0.1, 0.5, 1.0)
    ]
    distances = [(result - original).square().mean().item() for result in results]
    assert distances == sorted(distances) and distances[0] < 0.5 * distances[2]


def test_size_is_that_of_the_picture(pipeline):
    """Cut down to whole latent cells; a tensor is cropped at its centre, a PIL picture resized."""
    odd, sprinkled = torch.rand(1, 3, 45, 78), {"seed": 1, "steps": 1, "output": "latent"}
    mask = torch.zeros(1, 45, 78)
    mask[:, 6:38, 39:71] = 1.0
    cropped = pipeline("a cat", image=odd[..., 6:38, 7:71], mask=mask[:, 6:38, 7:71], **sprinkled)
    assert torch.equal(pipeline("a cat", image=odd, mask=mask, **sprinkled), cropped)
    assert pipeline("a cat", seed=1, image=Image.new("RGB", (70, 140)), steps=1)[0].size == (64, 128)
    assert pipeline("a cat", seed=1, image=Image.new("RGB", (8, 8)), steps=1)[0].size == (32, 32)
    assert pipeline("a cat", seed=1, image=torch.rand(3, 32, 64), steps=1)[0].size == (64, 32)


def test_mask_keeps_what_it_does_not_cover(pipeline, picture):
    mask = torch.zeros(1, 64, 96)
    mask[:, 0:10, 40:50] = 1.0  # in the middle cell of the first row
    original = pipeline.encode_image(picture, pipeline.defaults)
    result = pipeline("a cat", seed=1, image=picture, mask=mask, output="latent")
    changed = (result - original).abs().amax(1)[0]
    assert changed[0, 1] > 0.1
    changed[0, 1] = 0
    assert changed.max() == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"width": 100}, "nearest sizes"),
        ({"height": 0}, "nearest sizes"),
        ({"width": -32, "height": -32}, "nearest sizes"),
        ({"steps": 0}, "at least one step"),
        ({"shift": 0.0}, "shift"),
        ({"sampler": "euler"}, "choose one of flow_dpm, flow_euler, scm"),
        (
            {"sampler": "scm"},
            "scm takes the few large steps .* this model is a SANA of 2 blocks, 224 wide.* choose flow_dpm",
        ),
        ({"step_noise": torch.zeros(2, *SHAPE)}, "flow_dpm adds none in its steps"),
        ({"pag_scale": -1.0}, "pag_scale is -1.0, expected 0"),
        ({"pag_scale": 2.0, "pag_layers": [1, 2]}, "in blocks 2: this model has the blocks 0 to 1"),
        ({"pag_scale": 2.0, "pag_layers": []}, "in blocks none"),
        ({"control_image": torch.rand(3, 64, 96)}, "no ControlNet: load the pipeline with one"),
        ({"output": "jpeg"}, "pil, latent, tensor"),
        ({"batch_size": 0}, "batch_size"),
        ({"prompt": []}, "prompt"),
        ({"negative_prompt": ["a", "b"]}, "2 negative prompts for 1 prompts"),
        ({"latents": torch.zeros(1, 16, 2, 3)}, r"\(1, 16, 2, 3\), expected \(1, 32, 2, 3\)"),
        ({"latents": torch.zeros(2, 32, 2, 3)}, r"expected \(1, 32, 2, 3\) for 1 pictures of 96 x 64"),
        ({"latents": torch.zeros(32, 2, 3)}, "latents of shape"),
        ({"strength": 0.5}, "give the picture, too"),
        ({"mask": torch.ones(1, 64, 96)}, "give the picture, too"),
        ({"image": torch.rand(3, 64, 96), "strength": 0.0}, "strength"),
        ({"image": torch.rand(3, 3, 64, 96)}, "3 start pictures for 1 pictures"),
        ({"image": torch.rand(3, 32, 96), "width": 96, "height": 64}, "resize it"),
        ({"seed": 2**64}, "seed"),
    ],
    ids=str,
)
def test_one_clear_error(pipeline, arguments, said):
    with pytest.raises(InputError, match=said):
        pipeline(**{"prompt": "a cat", **arguments})


# --- perturbed-attention guidance and ControlNet


@pytest.mark.parametrize("guidance_scale", [3.0, 1.0])
def test_pag_is_the_formula_on_one_step(pipeline, guidance_scale):
    """The result of one step is x0, in which guidance is linear."""
    plain = {"prompt": "a cat", "seed": 1, "steps": 1, "guidance_scale": guidance_scale, "output": "latent"}
    without, once, twice = (pipeline(**plain, pag_scale=scale, pag_layers=[1]) for scale in (0.0, 1.0, 2.0))
    close(twice - without, 2 * (once - without))
    assert (once - without).abs().max() > 1e-3


def test_pag_takes_the_models_own_block(pipeline):
    given = {"prompt": "a cat", "seed": 1, "pag_scale": 2.0, "output": "latent"}
    assert torch.equal(pipeline(**given), pipeline(**given, pag_layers=[0]))  # of two, as 8 of 20
    assert not torch.allclose(pipeline(**given), pipeline(**given, pag_layers=[1]))


@pytest.fixture
def controlled(pipeline):
    config = tiny.transformer_config(depth=1, caption_channels=pipeline.transformer.config.caption_channels)
    return dataclasses.replace(pipeline, controlnet=tiny.randomized(SanaControlNet(config), seed=9))


def test_control_image(controlled, pipeline, picture):
    given = {"prompt": "a cat", "seed": 1, "batch_size": 2, "output": "latent"}
    plain = pipeline(**given)
    close(controlled(**given), plain)
    close(controlled(**given, control_image=picture, control_scale=0.0), plain)
    half, full = (controlled(**given, control_image=picture, control_scale=scale) for scale in (0.5, 1.0))
    assert (half - plain).abs().max() > 1e-3 and (full - half).abs().max() > 1e-3


def test_each_picture_of_a_batch_follows_its_own_control_image(controlled):
    images, latents = torch.rand(2, 3, 64, 96), noise((2, 32, 2, 3), 3)
    prompts = ["a cat", "a small fluffy red apple on a wooden table"]
    together = controlled(prompts, "blurry", latents=latents, control_image=images, pag_scale=2.0, output="latent")
    for item, prompt in enumerate(prompts):
        own = slice(item, item + 1)
        alone = controlled(
            prompt, "blurry", latents=latents[own], control_image=images[own], pag_scale=2.0, output="latent"
        )
        close(together[own], alone)
    with pytest.raises(InputError, match="2 control pictures for 3 pictures"):
        controlled("a cat", batch_size=3, control_image=images)


def test_a_controlnet_of_another_width_is_refused_when_loaded(tmp_path, files):
    network = tiny.randomized(SanaControlNet(tiny.transformer_config(hidden_size=288, depth=1, caption_channels=96)))
    save_file(network.state_dict(), tmp_path / "c.safetensors")
    with pytest.raises((InputError, CheckpointError), match="288 wide, the model is 224 wide"):
        load_pipeline(files, device="cpu", controlnet=tmp_path / "c.safetensors")


# --- Sprint


@pytest.fixture(scope="module")
def sprint(tmp_path_factory):
    sampling = {"width": 96, "height": 64}
    files = tiny_pipeline.write_files(tmp_path_factory.mktemp("sprint"), sampling, qk_norm=True, guidance_embed=True)
    return load_pipeline(files, device="cpu")


def test_sprint_is_sampled_as_released(sprint):
    seen = []
    sprint("a cat", seed=1, callback=lambda index, sigma, x, x0: seen.append(sigma))
    assert seen == pytest.approx([1.0, 0.78271], abs=1e-5)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 9])
def test_sprint_in_batches(sprint, steps):
    """A batch is drawn with its own noise in every step, and each picture of it as alone."""
    latents, draws = (
        noise((2, 32, 2, 3), 3),
        torch.randn(steps, 2, 32, 2, 3, generator=torch.Generator().manual_seed(4)),
    )
    prompts = ["a cat", "a small fluffy red apple on a wooden table"]
    together = sprint(prompts, latents=latents, step_noise=draws, steps=steps, output="latent")
    for item, prompt in enumerate(prompts):
        own = slice(item, item + 1)
        close(
            together[own], sprint(prompt, latents=latents[own], step_noise=draws[:, own], steps=steps, output="latent")
        )


def test_seeds_give_all_the_noise_of_sprint(sprint):
    together = sprint(["a cat", "a cat"], seeds=[7, 5], steps=4, output="latent")
    close(together[1], sprint("a cat", seed=5, steps=4, output="latent")[0])


def test_a_seed_gives_all_the_noise_of_sprint(sprint):
    draws = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(5))
    drawn, given = (
        sprint("a cat", seed=5, steps=4, output="latent"),
        {"latents": draws[0], "steps": 4, "output": "latent"},
    )
    assert not torch.equal(drawn, sprint("a cat", seed=6, **given))
    assert torch.equal(drawn, sprint("a cat", seed=5, **given))
    generator = torch.Generator().manual_seed(5)
    first, *rest = (torch.randn(SHAPE, generator=generator) for _ in range(4))
    assert torch.equal(drawn, sprint("a cat", latents=first, step_noise=torch.stack(rest), steps=4, output="latent"))


def test_sprint_has_its_guidance_inside(sprint):
    """A negative prompt is not read; the scale counts, 1 too."""
    plain = {"prompt": "a cat", "seed": 1, "output": "latent"}
    assert torch.equal(sprint(**plain), sprint(**plain, negative_prompt="blurry"))
    assert not torch.allclose(sprint(**plain), sprint(**plain, guidance_scale=1.0))


@pytest.mark.parametrize("strength", [0.05, 0.3, 0.5, 0.6, 0.95])
def test_sprint_uses_the_picture_at_every_strength(sprint, picture, strength):
    seen = []
    hook = sprint.transformer.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with hook:
        sprint("a cat", seed=1, image=picture, strength=strength)
    sigma = sprint.resolve("", image=picture, strength=strength).sigmas()[0].item()
    original = sprint.encode_image(picture, sprint.defaults)
    assert sigma < 0.99 and len(seen) == math.ceil(2 * strength)
    close(seen[0], sigma * noise(SHAPE, 1) + (1 - sigma) * original)


def test_sprint_keeps_what_a_mask_does_not_cover(sprint, picture):
    mask = torch.zeros(1, 64, 96)
    mask[:, :32, :32] = 1.0
    changed = (
        sprint("a cat", seed=1, image=picture, mask=mask, output="latent")
        - sprint.encode_image(picture, sprint.defaults)
    ).abs()
    assert changed[..., 0, 0].max() > 0.1 and changed[..., 1:, :].max() == 0 and changed[..., 1:].max() == 0


@pytest.mark.parametrize("shape", [(2, *SHAPE), (3, 1, 32, 3, 2), (3, 32, 2, 3)])
def test_step_noise_of_another_shape(sprint, shape):
    with pytest.raises(InputError, match=r"expected \(3, 1, 32, 2, 3\)"):
        sprint("a cat", steps=4, step_noise=torch.zeros(shape))


def test_samplers_and_shifts_that_do_not_suit_the_model_are_warned_of(sprint, pipeline, caplog):
    sprint("a cat", sampler="flow_euler", steps=1)
    assert (
        "flow_euler follows the flow of a base SANA model" in caplog.text
        and "choose scm with 1 to 4 steps" in caplog.text
    )
    caplog.clear()
    pipeline("a cat", steps=1, shift=1.0)
    assert (
        "flow shift 1 on a SANA model of 96 x 64 pixels that was released with 2" in caplog.text
        and len(caplog.records) == 1
    )
    caplog.clear()
    pipeline("a cat", steps=1, shift=1.5)
    assert not caplog.records


def test_what_is_no_number(pipeline, picture):
    nan, infinite = float("nan"), float("inf")
    for wrong in (
        {"guidance_scale": nan},
        {"guidance_scale": infinite},
        {"shift": infinite},
        {"pag_scale": nan},
        {"pag_scale": infinite},
    ):
        with pytest.raises(InputError, match=r"nan|inf"):
            pipeline("x", steps=1, output="latent", **wrong)
    with pytest.raises(InputError, match="control_scale is nan"):
        pipeline("x", steps=1, control_image=picture, control_scale=nan)


def test_as_many_masks_as_pictures(pipeline, picture):
    with pytest.raises(InputError, match="2 masks for 1 pictures"):
        pipeline("x", steps=1, width=96, height=64, image=picture, mask=torch.ones(2, 1, 64, 96), output="latent")


def test_negative_prompts_as_long_as_the_prompts(pipeline):
    """Upstream's unconditional mask: per prompt, and in a batch as alone."""
    settings = {"width": 64, "height": 64, "steps": 2, "output": "latent", "negative_mask": "positive"}
    start = noise((2, 32, 2, 2), 0)
    together = pipeline(["a cat", "a red apple on a wooden table"], ["", "blurry"], latents=start, **settings)
    alone = [
        pipeline("a cat", "", latents=start[:1], **settings),
        pipeline("a red apple on a wooden table", "blurry", latents=start[1:], **settings),
    ]
    close(together, torch.cat(alone))
    assert (
        together[:1] - pipeline("a cat", "", latents=start[:1], **{**settings, "negative_mask": "own"})
    ).abs().max() > 1e-3
    with pytest.raises(InputError, match='negative_mask="both", expected one of own, positive'):
        pipeline("a cat", **{**settings, "negative_mask": "both"})
