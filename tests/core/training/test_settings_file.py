"""Settings files: our own names in TOML and YAML, and configurations of NVIDIA's Sana."""

import logging
import sys

import pytest

from sana_core.errors import InputError
from sana_core.training.settings import TrainSettings
from sana_core.training.settings_file import OPTIONS, read_settings

NVIDIA = """
data:
  data_dir: [pictures]
  image_size: 512
  caption_proportion: {prompt: 1}
  clip_thr_temperature: 0.1
  type: SanaWebDatasetMS
model:
  model: SanaMS_1600M_P1_D20
  image_size: 512
  mixed_precision: bf16
  load_from: sana.pth
  resume_from:
  multi_scale: true
  class_dropout_prob: 0.1
vae: {vae_type: dc-ae, scale_factor: 0.41407}
text_encoder: {model_max_length: 300, chi_prompt: [one, two]}
scheduler:
  predict_flow_v: true
  noise_schedule: linear_flow
  flow_shift: 3.0
  weighting_scheme: logit_normal
  logit_mean: 0.0
  logit_std: 1.0
train:
  num_workers: 10
  seed: 1
  train_batch_size: 16
  num_epochs: 100
  gradient_accumulation_steps: 2
  grad_checkpointing: true
  gradient_clip: 0.1
  optimizer:
    betas: [0.9, 0.999, 0.9999]
    eps: [1.0e-30, 1.0e-16]
    lr: 1e-4
    type: CAME8BitWrapper
    weight_decay: 0.0
    block_size: 2048
    min_8bit_size: 16384
  auto_lr:
  lr_schedule: constant
  lr_schedule_args: {num_warmup_steps: 2000}
  ema_rate: 0.9999
  log_interval: 20
  save_model_steps: 500
"""


@pytest.fixture
def file(tmp_path):
    def write(text, name="settings.yaml"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def refused(path, *words, **options):
    with pytest.raises(InputError) as error:
        read_settings(path, **options)
    message = str(error.value)
    assert message.startswith(str(path)) or "ends with" in message
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yaml", "steps: 100\nrate: 1e-4\noptimizer: came\nbuckets: false\nshift:\nmodel: sana.pth\ntime-std: 2"),
        ("a.yml", "{steps: 1e2, rate: 0.0001, optimizer: came, buckets: no, model: sana.pth, time_std: 2}"),
        ("a.toml", 'steps = 100\nrate = 1e-4\noptimizer = "came"\nbuckets = false\nmodel = "sana.pth"\ntime_std = 2'),
    ],
)
def test_our_own_names(file, name, text):
    if name.endswith("toml") and sys.version_info < (3, 11):
        pytest.skip("Python 3.10 reads no TOML")
    values = read_settings(file(text, name), OPTIONS)
    expected = {"steps": 100, "rate": 1e-4, "optimizer": "came", "buckets": False, "model": "sana.pth", "time_std": 2}
    assert values == expected and type(values["steps"]) is int
    assert TrainSettings(**{name: value for name, value in values.items() if name != "model"}).steps == 100


def test_names_and_types_that_cannot_be(file):
    refused(file("stepz: 3"), 'unknown setting "stepz"', "the nearest is steps")
    refused(file("learning_rate: 3"), "unknown setting")
    refused(file("? 5\n: 3"), "unknown setting 5")
    refused(file("steps: many"), 'steps is "many", expected a whole number')
    refused(file("steps: 2.5"), "steps is 2.5, expected a whole number")
    refused(file("steps: true"), "steps is true")
    refused(file("rate: [1]"), "rate is a list, expected a finite number")
    refused(file("rate: .nan"), "rate is nan")
    refused(file("rate: 1e999"), "expected a finite number")
    refused(file("buckets: 1"), "buckets is 1, expected true or false")
    refused(file("optimizer: 2024-01-01"), "optimizer is 2024-01-01, expected a text")
    refused(file("betas: [0.9, x]"), 'betas is "x"', options=OPTIONS)
    refused(file("time_std: 1\ntime-std: 2"), "set twice")
    refused(file("at_once: 4"), "unknown setting", options={"steps": "whole"})


def test_files_that_cannot_be(file, tmp_path):
    refused(file("steps: 1", "a.txt"), ".toml, .yaml, .yml")
    refused(tmp_path / "no.yaml", "cannot be read")
    refused(file(b"\xff\xfe"), "cannot be read")
    refused(file("rate: 1\nsteps: [1"), "is no valid YAML", "line 2")
    refused(file("- steps"), "holds a list")
    refused(file("just words"), 'holds "just words"')
    refused(file("[" * 5000 + "]" * 5000), "nested too deeply")
    refused(file("a: &a [x]\nb: [*a, *a]"), "aliases")
    refused(file("steps: !!python/object/apply:os.getcwd []"), "is no valid YAML")
    refused(file("a: " + "1" * 6000), "is no valid YAML")
    refused(file("? 0x" + "f" * 6000 + "\n: 1"), "unknown setting a whole number of many digits")
    refused(file("a: 2024-99-99"), "is no valid YAML")
    refused(file("#" * 100_000), "too large")
    assert read_settings(file("")) == {}
    if sys.version_info >= (3, 11):
        refused(file("steps = ", "a.toml"), "is no valid TOML")


def test_a_configuration_of_nvidia(file, caplog):
    caplog.set_level(logging.INFO, "sana")
    path = file(NVIDIA)
    assert read_settings(path, OPTIONS, processes=4) == {
        "data": "pictures", "pixels": 512, "caption_temperature": 0.1, "precision": "bfloat16", "model": "sana.pth",
        "buckets": True, "caption_dropout": 0.1, "shift": 3.0, "time_mean": 0.0, "time_std": 1.0, "seed": 1,
        "at_once": 16, "batch": 128, "epochs": 100, "checkpointing": True, "clip": 0.1, "rate": 1e-4,
        "optimizer": "came8bit", "weight_decay": 0.0, "warmup": 2000, "average": 0.9999, "log_every": 20,
    }  # fmt: skip
    (line,) = caplog.messages
    assert line == (
        f"{path}: ignored, as they mean nothing here: data.type, model.model, text_encoder.chi_prompt, "
        "text_encoder.model_max_length, train.num_workers, train.save_model_steps, vae.scale_factor, vae.vae_type"
    )


def test_what_the_command_does_not_know_is_ignored(file, caplog):
    caplog.set_level(logging.INFO, "sana")
    values = read_settings(file(NVIDIA))
    assert "epochs" not in values and TrainSettings(**values).batch == 32
    refused(file("data: pictures"), 'unknown setting "data"')
    assert "train.num_epochs" in caplog.messages[-1] and "model.mixed_precision" in caplog.messages[-1]


def test_the_rate_is_scaled_as_upstream_does(file, caplog):
    caplog.set_level(logging.INFO, "sana")
    for said, factor in ((None, 0.25), ("{rule: sqrt}", 0.25), ("{rule: linear}", 0.0625)):
        text = NVIDIA.replace("  auto_lr:\n", "" if said is None else f"  auto_lr: {said}\n")
        values = read_settings(file(text.replace("train_batch_size: 16", "train_batch_size: 8")))
        assert values["batch"] == 16 and values["rate"] == pytest.approx(1e-4 * factor)
        assert "as upstream scales" in "".join(caplog.messages)


def test_other_betas_are_kept(file):
    text = NVIDIA.replace("[0.9, 0.999, 0.9999]", "[0.8, 0.99, 0.999]").replace("[1.0e-30, 1.0e-16]", "[1e-20, 1e-8]")
    values = read_settings(file(text), OPTIONS)
    assert values["betas"] == (0.8, 0.99, 0.999) and values["eps"] == (1e-20, 1e-8)
    adam = "train: {optimizer: {type: AdamW, eps: 1.0e-10}}"
    assert read_settings(file(adam), OPTIONS) == {"optimizer": "adamw", "eps": (1e-10,)}


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("weighting_scheme: logit_normal", "weighting_scheme: mode", "scheduler.weighting_scheme"),
        ("lr_schedule: constant", "lr_schedule: cosine", "here it can be"),
        ("predict_flow_v: true", "predict_flow_v: 1", "scheduler.predict_flow_v is 1"),
        ("type: CAME8BitWrapper", "type: Lion", "expected one of CAMEWrapper"),
        ("mixed_precision: bf16", "mixed_precision: [bf16]", "model.mixed_precision is a list"),
        ("data_dir: [pictures]", "data_dir: [one, two]", "names 2 folders"),
        ("train_batch_size: 16", "train_batch_size: many", 'train.train_batch_size is "many"'),
        ("  image_size: 512\n  mixed", "  image_size: 1024\n  mixed", "differ"),
        ("seed: 1", "seed: {a: 1}", "train.seed is a table, expected a whole number"),
        ("auto_lr:", "auto_lr: {rule: cube}", "expected sqrt or linear"),
        ("lr: 1e-4", "lr: fast", 'train.optimizer.lr is "fast"'),
    ],
)
def test_what_cannot_mean_the_same_is_refused(file, before, after, said):
    assert before in NVIDIA
    refused(file(NVIDIA.replace(before, after)), said)
