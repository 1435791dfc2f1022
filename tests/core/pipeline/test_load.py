"""Pipelines from files and folders, their number types, and how they say they are sampled."""

import json
import math

import pytest
import tiny_pipeline
import torch
from safetensors.torch import load_file, save_file

from sana_core.checkpoint.detect import native_size
from sana_core.config import SamplingDefaults
from sana_core.device import pick_device
from sana_core.errors import CheckpointError, InputError
from sana_core.pipeline import load_pipeline
from sana_core.sources import pipeline_files, released_sampling


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return tiny_pipeline.write_files(tmp_path_factory.mktemp("sana"))


@pytest.fixture(scope="module")
def pipeline(files):
    return load_pipeline(files, device="cpu")


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.bfloat16, torch.bfloat16),
        (torch.float16, torch.bfloat16),
        (torch.float32, torch.float32),
        (None, torch.float32),
    ],
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
    absent = ("gpu", *(name for name in ("xpu", "mps") if not getattr(torch, name).is_available()))
    for device in ("cuda:99", *absent) if torch.cuda.is_available() else ("cuda", "cuda:0", *absent):
        with pytest.raises(InputError, match="use cpu"):
            pick_device(device)


def pipeline_folder(folder, files, scheduler, config):
    """A diffusers pipeline folder around the tiny transformer."""
    for name, content in (
        ("model_index.json", {}),
        ("scheduler/scheduler_config.json", scheduler),
        ("transformer/config.json", config),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    save_file(load_file(files["transformer"]), folder / "transformer" / "diffusion_pytorch_model.safetensors")
    return pipeline_files(folder)


@pytest.mark.parametrize(
    ("scheduler", "sampler", "shift"),
    [
        (
            {
                "_class_name": "DPMSolverMultistepScheduler",
                "flow_shift": 6.0,
                "shift": 1,
                "lambda_min_clipped": -math.inf,
            },
            "flow_dpm",
            6.0,
        ),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "flow_shift": 6.0, "shift": 2}, "flow_euler", 2.0),
        ({"_class_name": "UniPCMultistepScheduler"}, "flow_dpm", 3.0),
    ],
)
def test_diffusers_folder_states_its_sampling(tmp_path, files, pipeline, scheduler, sampler, shift):
    found = released_sampling(
        pipeline_folder(tmp_path, files, scheduler, {"sample_size": 16}), pipeline.transformer.config
    )
    assert found == SamplingDefaults(sampler=sampler, shift=shift, width=512, height=512)


@pytest.mark.parametrize(
    "scheduler", ["{broken", "[1]", '{"_class_name": "DPMSolverMultistepScheduler", "flow_shift": "x"}']
)
def test_scheduler_that_cannot_be_read(tmp_path, files, pipeline, scheduler):
    with pytest.raises(CheckpointError, match="scheduler_config"):
        released_sampling(pipeline_folder(tmp_path, files, scheduler, {}), pipeline.transformer.config)


def test_native_size():
    assert native_size({}, {}) is None and native_size({}, {}, "512") == 512 and native_size({}, {}, "4k") == 4096
    assert native_size({"pos_embed": torch.empty(1, 256, 224, device="meta")}, {}) == 512
    assert native_size({}, {"sample_size": 64}) == 2048
