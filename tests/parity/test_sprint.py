"""SANA-Sprint with SCM against diffusers' SanaSprintPipeline and SanaSprintImg2ImgPipeline, every layout, float32."""

import math

import pytest
import torch
from agreement import assert_agree, error
from PIL import Image

from sana_core.checkpoint.load import load_transformer
from sana_core.pipeline import load_pipeline
from sana_core.samplers.denoiser import make_denoiser
from sana_core.samplers.schedules import angle_sigmas
from sana_core.samplers.scm import sample_scm

TOLERANCE = 5e-4
PROMPT = "a small fluffy white cat wearing a red hat"  # diffusers lower-cases prompts


@pytest.fixture(scope="module", params=["folder", "single", "original"])
def pipeline(request, oracle, text_file):
    fixtures = oracle.fixtures
    companions = {"autoencoder": fixtures / "single" / "vae.safetensors", "text_encoder": text_file}
    sources = {
        "folder": fixtures / "pipelines" / "sprint",
        "single": {"transformer": fixtures / "single" / "transformer_sprint.safetensors", **companions},
        "original": {"transformer": fixtures / "original" / "sprint.pth", **companions},
    }
    pipeline = load_pipeline(sources[request.param], device="cpu")
    assert (pipeline.defaults.sampler, pipeline.defaults.steps, pipeline.defaults.guidance_scale) == ("scm", 2, 4.5)
    return pipeline


def check(pipeline, reference, case, **arguments):
    """The latents after each step; the last ones agree with the reference."""
    steps = []
    latents = pipeline(
        PROMPT, instruction="diffusers", output="latent", callback=lambda i, sigma, x, x0: steps.append(x), **arguments
    )
    assert_agree(latents, reference[f"sprint/{case}/latents"], TOLERANCE)
    if case == "steps2":  # the decoder has its own tests
        assert_agree(pipeline.decode(latents, pil=False), reference[f"sprint/{case}/image"], TOLERANCE)
    return torch.stack(steps)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_text_to_image(oracle, pipeline, steps):
    case, reference = f"steps{steps}", oracle.reference
    found = check(
        pipeline,
        reference,
        case,
        latents=reference[f"sprint/{case}/in_latents"],
        step_noise=reference[f"sprint/{case}/noise"],
        steps=steps,
    )
    if steps != 2:  # the states between, which the reference keeps in TrigFlow at data deviation 0.5
        angles = torch.linspace(1.5708, 0.0, steps + 1)[1:]
        trig = found * 0.5 * (angles.sin() + angles.cos()).reshape(-1, 1, 1, 1, 1)
        assert_agree(trig, reference[f"sprint/{case}/latents_per_step"], TOLERANCE)


@pytest.fixture(scope="module")
def picture(oracle):
    return Image.fromarray(oracle.reference["sprint/image/in_uint8"].numpy())


@pytest.mark.parametrize(
    ("case", "steps", "strength"),
    [
        ("img2img_steps2_strength0.5", 2, 0.5),
        ("img2img_steps4_strength0.75", 4, 0.75),
        ("img2img_steps2_strength0.6", 2, 1.0),
    ],
)
def test_image_to_image(oracle, pipeline, picture, case, steps, strength):
    """diffusers rounds the steps of its default, 0.6 of 2, up to both and begins at pure noise: what strength 1 says
    here.
    """
    reference = oracle.reference
    first, *rest = reference[f"sprint/{case}/noise"]
    check(
        pipeline,
        reference,
        case,
        image=picture,
        strength=strength,
        steps=steps,
        latents=first,
        step_noise=torch.stack(rest),
    )


def test_the_default_of_diffusers_uses_the_picture_here(oracle, pipeline, picture):
    """0.6 in two steps, where another picture changes nothing there."""
    original = pipeline.encode_image(picture, pipeline.resolve("", width=320, height=256))
    assert_agree(original, oracle.reference["sprint/image/image_latent"], TOLERANCE)
    first, *rest = oracle.reference["sprint/img2img_steps2_strength0.6/noise"]
    other = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    given = {"latents": first, "step_noise": torch.stack(rest), "strength": 0.6, "output": "latent"}
    assert error(*(pipeline(PROMPT, image=image, **given) for image in (picture, other))) > 1e-2


@pytest.mark.parametrize("layout", ["pipelines/sprint", "single/transformer_sprint.safetensors", "original/sprint.pth"])
def test_other_angles_and_guidance(oracle, layout):
    """Angles 1.5, 1, 0: the start is not quite pure noise, and diffusers' latents there are the noise alone."""
    reference = oracle.reference
    transformer, states = load_transformer(oracle.fixtures / layout), reference["sana/conditioning/in_positive"][None]
    x = reference["sprint/steps2_g2/in_latents"] / (math.sin(1.5) + math.cos(1.5))
    sigmas = angle_sigmas(torch.tensor([1.5, 1.0, 0.0], dtype=torch.float64))
    with torch.no_grad():
        denoise = make_denoiser(
            transformer, (states, torch.ones(states.shape[:2], dtype=torch.bool)), None, guidance_scale=2.0
        )
        found = sample_scm(denoise, x, sigmas, step_noise=reference["sprint/steps2_g2/noise"])
    assert_agree(found, reference["sprint/steps2_g2/latents"], TOLERANCE)
