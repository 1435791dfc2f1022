"""Requests: picklable, resolved in one place, and refused before anything is drawn."""

import pickle
from dataclasses import fields, replace

import numpy as np
import pytest
import tiny_pipeline
import torch
from PIL import Image

import sana_core
from sana_core import Request, load_pipeline
from sana_core.errors import InputError
from sana_core.pipeline.request import Resolved

K = {"steps": 1, "width": 64, "height": 32, "output": "latent"}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return load_pipeline(tiny_pipeline.write_files(tmp_path_factory.mktemp("sana")), device="cpu")


@pytest.fixture
def untouched(pipeline, monkeypatch):
    """The pipeline, whose networks must not run."""
    for network in (pipeline.text_encoder, pipeline.transformer, pipeline.autoencoder):
        for name in ("forward", "encode", "decode"):
            monkeypatch.setattr(network, name, lambda *_, **__: pytest.fail("a network ran"), raising=False)
    return pipeline


def test_none_stands_for_the_models_default(pipeline):
    run = pipeline.resolve("a cat")
    assert (run.prompt, run.negative_prompt, run.pag_layers, run.count) == (("a cat",), ("",), (0,), 1)
    assert {name: getattr(run, name) for name in tiny_pipeline.SAMPLING} == tiny_pipeline.SAMPLING
    assert isinstance(run.seed, int) and pipeline.resolve("a cat").seed != run.seed
    assert len(run.sigmas()) == run.steps + 1 and run.strength is None


def test_a_request_draws_what_its_settings_draw(pipeline):
    settings = {"steps": 2, "seed": 3, "guidance_scale": 2.0, "pag_scale": 1.0, "batch_size": 2}
    expected = pipeline("a cat", "blurry", **settings, output="latent")
    request = Request("a cat", negative_prompt="blurry", **settings)
    run = pipeline.resolve(request)
    for given in (request, run, pickle.loads(pickle.dumps(request)), pickle.loads(pickle.dumps(run))):
        assert torch.equal(pipeline(given, output="latent"), expected)
    other = pipeline("a cat", "foggy", **{**settings, "seed": 4}, output="latent")
    for given in (request, run):
        assert torch.equal(pipeline(given, "foggy", seed=4, output="latent"), other)
    assert pipeline.resolve(run) is run and request.seed == 3


def test_a_resolved_request_is_checked_again_where_it_is_changed(pipeline):
    run = pipeline.resolve("a cat", image=torch.rand(1, 3, 64, 96))
    with pytest.raises(InputError, match="nearest sizes"):
        pipeline(run, width=100)
    with pytest.raises(InputError, match="resize it"):
        pipeline(run, width=224)
    assert pipeline.resolve(run, steps=2).steps == 2


def test_pictures_are_pickled_too(pipeline):
    picture = Image.radial_gradient("L").resize((64, 32)).convert("RGB")
    request = Request("a cat", image=picture, mask=picture.convert("L"), seed=1, steps=2)
    assert torch.equal(
        pipeline(pickle.loads(pickle.dumps(request)), output="latent"), pipeline(request, output="latent")
    )


def test_resolved_states_every_field_in_its_type():
    assert [item.name for item in fields(Resolved)] == [item.name for item in fields(Request)]


def test_stream(pipeline):
    requests = [Request("a cat", seed=1, batch_size=2), Request(["a dog", "a red apple"], seed=2), "a tree"]
    read = []
    results = pipeline.stream(read.append(request) or request for request in requests)
    first = next(results)
    assert len(read) == 1  # one at a time
    results = [first, *results]
    assert [result.index for result in results] == [0, 1, 0, 1, 0]
    assert [result.request.prompt for result in results] == [("a cat",)] * 2 + [("a dog", "a red apple")] * 2 + [
        ("a tree",)
    ]
    again = pipeline(results[-1].request)  # with the seed that was drawn
    assert again[0].tobytes() == results[-1].picture.tobytes()
    for result, picture, latent in zip(
        results, pipeline(requests[0]) + pipeline(requests[1]), pipeline(requests[0], output="latent")
    ):
        assert result.picture.tobytes() == picture.tobytes() and torch.equal(result.latent, latent)
        assert result.latent.shape == (32, 2, 3)


@pytest.mark.parametrize(
    "numpy_types",
    [
        {"seed": np.int64(3), "steps": np.int32(1), "width": np.uint16(64), "batch_size": np.int8(1)},
        {
            "guidance_scale": np.float32(3.0),
            "shift": np.float64(2.0),
            "pag_scale": np.float16(0),
            "height": np.int64(32),
        },
        {"seed": torch.tensor(3), "shift": torch.tensor(2.0), "guidance_scale": 3},
        {"pag_layers": np.array([0, 1]), "negative_prompt": None, "prompt": np.str_("a cat")},
    ],
    ids=str,
)
def test_numbers_of_numpy_and_tensors(pipeline, numpy_types):
    plain = {"prompt": "a cat", "seed": 3, "shift": 2.0, "guidance_scale": 3.0, **K}
    expected = pipeline(**plain)
    run = pipeline.resolve(**{key: value for key, value in {**plain, **numpy_types}.items() if key != "output"})
    assert torch.equal(pipeline(**{**plain, **numpy_types}), expected)
    assert {type(value) for value in (run.seed, run.steps, run.width, run.batch_size)} == {int}
    assert {type(value) for value in (run.guidance_scale, run.shift, run.pag_scale)} == {float}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prompt": None}, "prompt is None, expected a text"),
        ({"prompt": 5}, "prompt is 5, expected a text"),
        ({"prompt": b"a cat"}, "prompt is 97, expected a text"),
        ({"prompt": ["a cat", None]}, "prompt is None, expected a text"),
        ({"prompt": []}, "prompt is an empty list"),
        ({"prompt": "caf\udcff"}, "the prompt is not valid Unicode"),
        ({"negative_prompt": 1.5}, "negative_prompt is 1.5, expected a text"),
        ({"negative_prompt": []}, "0 negative prompts for 1 prompts"),
        ({"negative_prompt": [None]}, "negative_prompt is None"),
        ({"seed": torch.Generator()}, "seed is a torch.Generator.*initial_seed"),
        ({"seed": "7"}, "seed is '7', expected a whole number"),
        ({"seed": 1.0}, "seed is 1.0, expected a whole number"),
        ({"seed": [1, 2]}, "seed is list, expected a whole number"),
        ({"seed": -(2**63) - 1}, "seed"),
        ({"steps": 2.0}, "steps is 2.0, expected a whole number"),
        ({"steps": 20.5}, "steps is 20.5, expected a whole number"),
        ({"steps": True}, "steps is True, expected a whole number"),
        ({"steps": "4" * 3000}, "expected a whole number"),
        ({"width": "64"}, "width is '64', expected a whole number"),
        ({"width": np.float32(64)}, "expected a whole number"),
        ({"batch_size": None}, "batch_size is None, expected a whole number"),
        ({"guidance_scale": "4.5"}, "guidance_scale is '4.5', expected a number"),
        ({"guidance_scale": [4.5]}, "guidance_scale is list, expected a number"),
        ({"guidance_scale": torch.tensor([4.5])}, "guidance_scale is Tensor, expected a number"),
        ({"guidance_scale": 10**400}, "guidance_scale is 1000"),
        ({"pag_scale": None}, "pag_scale is None, expected a number"),
        ({"pag_layers": 8}, r"pag_layers is 8, expected a list of block numbers"),
        ({"pag_layers": "8"}, "pag_layers is '8', expected a list"),
        ({"pag_layers": [0.5]}, "pag_layers is 0.5, expected a whole number"),
        ({"sampler": 3}, "sampler is 3, expected a text"),
        ({"sampler": "x" * 5000}, "there is no sampler 'x"),
        ({"instruction": 3}, "instruction is 3, expected a text"),
        ({"negative_mask": None}, "expected one of own, positive"),
        ({"latents": "noise"}, "latents is 'noise', expected a tensor"),
        ({"latents": np.zeros((1, 32, 1, 2))}, "latents is ndarray, expected a tensor"),
        ({"latents": torch.zeros(1, 32, 1, 2, dtype=torch.int64)}, "latents is a tensor of torch.int64"),
        ({"step_noise": [torch.zeros(1, 32, 1, 2)]}, "step_noise is list, expected a tensor"),
        ({"image": [Image.new("RGB", (64, 32))]}, r"got list \(several pictures: stack them"),
        ({"image": 5}, "a picture is a PIL picture, a tensor, a uint8 array or a file name, got int"),
        ({"image": "none.png"}, "none.png is not a picture that can be read"),
        ({"image": np.zeros((32, 64, 3))}, "as an array is .* of uint8, got .* of float64"),
        ({"image": np.zeros((2, 32, 64, 3), np.uint8)}, r"as an array is \(H, W\) or \(H, W, C\)"),
        ({"image": torch.zeros(1, 3, 32, 64, dtype=torch.int64)}, "in 0..1 or uint8, got torch.int64"),
        ({"image": torch.rand(1, 3, 32, 64) * 255}, "numbers in 0..1, got"),
        ({"image": torch.rand(1, 3, 32, 64) * 2 - 1}, "numbers in 0..1, got -0.9"),
        ({"image": torch.full((1, 3, 32, 64), torch.nan)}, "numbers in 0..1, got nan"),
        ({"image": torch.zeros(0, 3, 32, 64)}, "resize it"),
        ({"image": torch.zeros(3, 3, 32, 64)}, "3 start pictures for 1 pictures"),
        ({"image": Image.new("RGB", (64, 32)), "mask": [None]}, "a mask is a PIL picture.* got list"),
        ({"image": Image.new("RGB", (64, 32)), "mask": torch.zeros(2, 1, 32, 64)}, "2 masks for 1 pictures"),
        ({"control_image": {}}, "a control picture is a PIL picture.* got dict"),
        ({"control_image": torch.zeros(2, 3, 32, 64)}, "2 control pictures for 1 pictures"),
        ({"control_image": torch.zeros(0, 3, 32, 64)}, r"\(B, 3, H, W\), got \(0, 3, 32, 64\)"),
        ({"control_image": Image.new("RGB", (64, 32)), "control_scale": "1"}, "control_scale is '1'"),
        ({"strength": "0.5", "image": Image.new("RGB", (64, 32))}, "strength is '0.5', expected a number"),
        ({"callback": 5}, "callback is int, expected a function"),
        ({"output": None}, "expected one of pil, latent, tensor"),
        ({"pag_scale": 1.0, "pag_layers": [7]}, "in blocks 7"),
    ],
    ids=lambda value: f"{value!s:.60}",
)
def test_wrong_types_are_refused_before_anything_runs(untouched, change, said):
    with pytest.raises(InputError, match=said) as error:
        untouched(**{"prompt": "a cat", "seed": 3, **K, **change})
    assert len(str(error.value)) < 1000 and "\n" not in str(error.value)


def test_a_setting_that_is_unknown(pipeline):
    with pytest.raises(TypeError, match="stepz"):
        pipeline("a cat", stepz=3)


def test_warnings_come_once(pipeline, caplog):
    pipeline(pipeline.resolve("a cat", shift=0.5, steps=1), output="latent")
    assert len([record for record in caplog.records if "flow shift" in record.message]) == 1


def test_the_classes_that_come_back_are_public(pipeline):
    parts = (pipeline, pipeline.transformer, pipeline.autoencoder, pipeline.text_encoder, pipeline.resolve("a"))
    assert all(getattr(sana_core, type(part).__name__) is type(part) for part in parts)
    assert all(hasattr(sana_core, name) for name in sana_core.__all__)


def test_a_resolved_request_of_another_model_is_checked(pipeline):
    run = pipeline.resolve("a cat", pag_scale=2.0)
    with pytest.raises(InputError, match="scm"):
        pipeline.resolve(replace(run, sampler="scm"))
    with pytest.raises(InputError, match="blocks 99"):
        pipeline.resolve(replace(run, pag_layers=(99,)))


def test_stream_takes_several_requests(pipeline):
    for one in ("a cat", Request("a cat")):
        with pytest.raises(InputError, match="several requests"):
            next(pipeline.stream(one))


def test_noise_that_is_not_finite_is_refused(untouched):
    latents = torch.zeros(1, 32, 1, 2)
    latents[0, 0, 0, 0] = torch.nan
    with pytest.raises(InputError, match="no finite numbers"):
        untouched("a cat", latents=latents, **K)


def test_latents_that_are_not_finite_are_said(pipeline, caplog):
    pipeline("a cat", guidance_scale=1e300, seed=1, **K)
    assert "the latents are not finite" in caplog.text


@pytest.mark.parametrize("sampler", ["flow_dpm", "flow_euler"])
@pytest.mark.parametrize("steps", [10**9, 10**5000], ids=["many", "more"])
def test_too_many_steps_are_refused_at_once(pipeline, sampler, steps):
    with pytest.raises(InputError, match="at most 10000 steps"):
        pipeline.resolve("a cat", sampler=sampler, steps=steps)
