"""The pipeline on a whole tiny random SANA, loaded from files."""

import json
import math

import pytest
import tiny_pipeline
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from sana_core.checkpoint.files import read_checkpoint
from sana_core.config import SamplingDefaults
from sana_core.device import pick_device
from sana_core.errors import CheckpointError, InputError
from sana_core.latents import noise
from sana_core.pipeline import load_pipeline
from sana_core.samplers.schedules import flow_dpm_sigmas
from sana_core.sources import native_size, pipeline_files, released_sampling

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


def test_without_a_seed_every_picture_is_another(pipeline):
    assert not torch.equal(pipeline("a cat", output="latent"), pipeline("a cat", output="latent"))


def test_batch_equals_single_pictures(pipeline):
    """Two prompts of different length, two negative ones, two pictures each, in the order of the prompts."""
    prompts, negatives = ["a cat", "a small fluffy red apple on a wooden table"], ["blurry, low quality", ""]
    latents = noise((4, 32, 2, 3), 3)
    together = pipeline(prompts, negatives, latents=latents, batch_size=2, output="latent")
    for item, (prompt, negative) in enumerate(zip([p for p in prompts for _ in "12"], [n for n in negatives for _ in "12"])):
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
    """A constant model would leave x = sigma * noise + (1 - sigma) * picture; the first prediction sees exactly that."""
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
    results = [pipeline("a cat", seed=1, image=picture, strength=s, steps=10, guidance_scale=1.0, output="latent") for s in (0.1, 0.5, 1.0)]
    distances = [(result - original).square().mean().item() for result in results]
    assert distances == sorted(distances) and distances[0] < 0.5 * distances[2]


def test_size_is_that_of_the_picture(pipeline):
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
        ({"sampler": "scm"}, "flow_dpm, flow_euler"),
        ({"output": "jpeg"}, "pil, latent, tensor"),
        ({"batch_size": 0}, "batch_size"),
        ({"prompt": []}, "prompt"),
        ({"negative_prompt": ["a", "b"]}, "2 negative prompts for 1 prompts"),
        ({"latents": torch.zeros(1, 16, 2, 3)}, r"\(1, 16, 2, 3\), expected \(1, 32, 2, 3\)"),
        ({"latents": torch.zeros(2, 32, 2, 3)}, r"expected \(1, 32, 2, 3\) for 1 pictures of 96 x 64"),
        ({"latents": torch.zeros(32, 2, 3)}, "latents of shape"),
        ({"strength": 0.5}, "image="),
        ({"mask": torch.ones(1, 64, 96)}, "image="),
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


def test_sprint_without_a_sampler_for_it_says_so(tmp_path, files):
    tensors = load_file(files["transformer"])
    save_file(tensors, tmp_path / "t.safetensors", metadata={"sampling": json.dumps({"sampler": "scm"})})
    with pytest.raises(InputError, match='no sampler "scm"'):
        load_pipeline({**files, "transformer": tmp_path / "t.safetensors"}, device="cpu")("a cat")


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(torch.bfloat16, torch.bfloat16), (torch.float16, torch.bfloat16), (torch.float32, torch.float32), (None, torch.float32)],
)
def test_dtypes(files, dtype, expected):
    """Autoencoder and text encoder never run in float16."""
    pipeline = load_pipeline(files, device="cpu", dtype=dtype)
    assert {parameter.dtype for parameter in pipeline.transformer.parameters()} == {dtype or torch.float32}
    assert {parameter.dtype for parameter in pipeline.autoencoder.parameters()} == {expected}
    assert {parameter.dtype for parameter in pipeline.text_encoder.parameters()} == {expected}
    assert pipeline("a cat", seed=1, steps=1, output="tensor").isfinite().all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"transformer": None}, "transformer is missing"),
        ({"autoencoder": "", "text_encoder": None}, "autoencoder is missing, text_encoder is missing"),
        ({"vae": "x"}, "vae is unknown"),
    ],
    ids=str,
)
def test_files_that_do_not_make_a_pipeline(files, change, said):
    with pytest.raises(InputError, match=said):
        load_pipeline({**files, **change})


def test_a_file_in_the_wrong_place(files):
    with pytest.raises(CheckpointError, match="autoencoder"):
        load_pipeline({**files, "transformer": files["autoencoder"]}, device="cpu")


def test_a_folder_that_is_no_pipeline(tmp_path):
    for source in (tmp_path, tmp_path / "none", "nanoo"):
        with pytest.raises(InputError, match="model_index"):
            load_pipeline(source)


def test_devices():
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device(None).type == ("cuda" if torch.cuda.is_available() else "cpu")
    for device in ("cuda:99", "gpu") if torch.cuda.is_available() else ("cuda", "cuda:0", "gpu"):
        with pytest.raises(InputError, match="use cpu"):
            pick_device(device)


def pipeline_folder(folder, files, scheduler, config):
    """A diffusers pipeline folder around the tiny transformer."""
    for name, content in (("model_index.json", {}), ("scheduler/scheduler_config.json", scheduler), ("transformer/config.json", config)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    save_file(load_file(files["transformer"]), folder / "transformer" / "diffusion_pytorch_model.safetensors")
    return pipeline_files(folder)


@pytest.mark.parametrize(
    ("scheduler", "sampler", "shift"),
    [
        ({"_class_name": "DPMSolverMultistepScheduler", "flow_shift": 6.0, "shift": 1, "lambda_min_clipped": -math.inf}, "flow_dpm", 6.0),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "flow_shift": 6.0, "shift": 2}, "flow_euler", 2.0),
        ({"_class_name": "UniPCMultistepScheduler"}, "flow_dpm", 3.0),
    ],
)
def test_diffusers_folder_states_its_sampling(tmp_path, files, pipeline, scheduler, sampler, shift):
    found = released_sampling(pipeline_folder(tmp_path, files, scheduler, {"sample_size": 16}), pipeline.transformer.config)
    assert found == SamplingDefaults(sampler=sampler, shift=shift, width=512, height=512)


@pytest.mark.parametrize("scheduler", ["{broken", "[1]", '{"_class_name": "DPMSolverMultistepScheduler", "flow_shift": "x"}'])
def test_scheduler_that_cannot_be_read(tmp_path, files, pipeline, scheduler):
    with pytest.raises(CheckpointError, match="scheduler_config"):
        released_sampling(pipeline_folder(tmp_path, files, scheduler, {}), pipeline.transformer.config)


def test_native_size(files):
    header = read_checkpoint(files["transformer"], "meta")
    assert native_size(header) is None and native_size(header, "512") == 512 and native_size(header, "4k") == 4096
    header.tensors["pos_embed"] = torch.empty(1, 256, 224, device="meta")
    assert native_size(header) == 512
