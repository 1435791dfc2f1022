"""How a model says it is sampled: one rule for numbers in files, and no setting of a scheduler is lost in silence."""

import json
import logging
import math
from dataclasses import replace

import pytest
import tiny
from safetensors.torch import save_file

from sana_core.checkpoint.detect import detect
from sana_core.checkpoint.statements import with_stated_sampling
from sana_core.config import SamplingDefaults
from sana_core.errors import CheckpointError, InputError
from sana_core.sources import NANO_FILES, pipeline_files, released_sampling

DPM, EULER, SCM = "DPMSolverMultistepScheduler", "FlowMatchEulerDiscreteScheduler", "SCMScheduler"
AS_PUBLISHED = {
    "_class_name": DPM, "algorithm_type": "dpmsolver++", "final_sigmas_type": "zero", "flow_shift": 3.0,
    "lambda_min_clipped": -math.inf,
    "lower_order_final": True, "num_train_timesteps": 1000, "prediction_type": "flow_prediction", "solver_order": 2,
    "solver_type": "midpoint", "timestep_spacing": "linspace", "use_flow_sigmas": True, "use_karras_sigmas": False,
    "variance_type": None, "trained_betas": None, "use_beta_sigmas": None,
}  # fmt: skip


@pytest.fixture
def sampling(tmp_path, caplog):
    """What is read from a scheduler_config.json, and what is said of it."""

    def read(scheduler, metadata=None, **changes):
        model = tiny.transformer(depth=1, **changes)
        save_file(model.state_dict(), tmp_path / "m.safetensors", metadata)
        (tmp_path / "scheduler_config.json").write_text(json.dumps(scheduler))
        files = replace(
            NANO_FILES, transformer=tmp_path / "m.safetensors", scheduler=tmp_path / "scheduler_config.json"
        )
        with caplog.at_level(logging.WARNING, "sana"):
            found = released_sampling(files, model.config)
        return found, [record.getMessage() for record in caplog.records]

    return read


@pytest.mark.parametrize("scheduler", [
    AS_PUBLISHED, {"_class_name": DPM, "flow_shift": 6.0}, {"_class_name": EULER, "shift": 3.0, "shift_terminal": None},
    {"_class_name": EULER, "shift": 3, "use_dynamic_shifting": False, "base_shift": 0.5, "stochastic_sampling": False},
])  # fmt: skip
def test_a_scheduler_as_published_is_followed_without_a_word(sampling, scheduler):
    found, said = sampling(scheduler)
    assert not said and found.shift == scheduler.get("flow_shift", scheduler.get("shift"))
    assert found.sampler == ("flow_dpm" if scheduler["_class_name"] == DPM else "flow_euler")


NOT_FOLLOWED = [
    (EULER, "use_karras_sigmas", True), (EULER, "use_exponential_sigmas", True), (EULER, "use_beta_sigmas", True),
    (EULER, "shift_terminal", 0.1), (EULER, "use_dynamic_shifting", True), (EULER, "invert_sigmas", True),
    (EULER, "stochastic_sampling", True), (EULER, "num_train_timesteps", 500),
    (DPM, "algorithm_type", "sde-dpmsolver++"),
    (DPM, "solver_order", 3), (DPM, "solver_type", "heun"), (DPM, "final_sigmas_type", "sigma_min"),
    (DPM, "prediction_type", "epsilon"), (DPM, "use_flow_sigmas", False), (DPM, "use_lu_lambdas", True),
    (DPM, "euler_at_final", True), (DPM, "lower_order_final", False), (DPM, "thresholding", True),
    (DPM, "use_karras_sigmas", True),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "name", "value"), NOT_FOLLOWED)
def test_settings_that_are_not_followed_are_named(sampling, kind, name, value):
    found, (said,) = sampling({"_class_name": kind, name: value, "flow_shift": 3.0, "shift": 3.0})
    assert f"scheduler's {name} {json.dumps(value)} is not followed" in said and "scheduler_config.json" in said
    assert found.shift == 3.0 and found.sampler in said


@pytest.mark.parametrize(
    ("name", "stated", "shift"),
    [("UniPCMultistepScheduler", {"flow_shift": 6.0}, 6.0), ("FlowMatchHeunDiscreteScheduler", {"shift": 2.0}, 2.0),
     ("EulerDiscreteScheduler", {}, 3.0), (SCM, {}, 3.0), ("x" * 5000 + "\x1b", {}, 3.0)],
)  # fmt: skip
def test_other_schedulers_are_named(sampling, name, stated, shift):
    found, (said,) = sampling({"_class_name": name, **stated})
    assert name[:20] in said and "not followed" in said and len(said) < 1000
    assert (found.sampler, found.shift) == ("flow_dpm", shift)


def test_sprints_scheduler_is_followed(sampling):
    sprint = {"qk_norm": True, "guidance_embed": True}
    found, said = sampling({"_class_name": SCM, "sigma_data": 0.5, "prediction_type": "trigflow"}, **sprint)
    assert found.sampler == "scm" and not said
    assert "sigma_data 0.4" in sampling({"_class_name": SCM, "sigma_data": 0.4}, **sprint)[1][0]


@pytest.mark.parametrize(("kind", "name"), [(DPM, "flow_shift"), (EULER, "shift")])
def test_a_missing_shift_and_null_mean_what_diffusers_means(sampling, kind, name):
    diffusers = pytest.importorskip("diffusers")
    default = getattr(getattr(diffusers, kind)().config, name)
    assert default == 1.0
    for stated in ({}, {name: None}):
        assert sampling({"_class_name": kind, **stated})[0].shift == default


def test_the_files_own_word_comes_before_the_schedulers(sampling):
    found, _ = sampling(AS_PUBLISHED, {"sampling": '{"shift": 2.5, "steps": 7}'})
    assert (found.shift, found.steps, found.sampler) == (2.5, 7, "flow_dpm")


NUMBERS = [('{"steps": "20"}', {"steps": 20}), ('{"steps": 42.0}', {"steps": 42}), ('{"steps": null}', {}),
           ('{"shift": "2.5", "guidance_scale": 5}', {"shift": 2.5, "guidance_scale": 5.0}), ('{"colour": 3}', {}),
           ('{"sampler": "flow_euler", "width": "512.0"}', {"sampler": "flow_euler", "width": 512})]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), NUMBERS)
def test_numbers_as_other_tools_write_them(text, expected):
    """The same in the library, for a host, and wherever the entry is read."""
    defaults = SamplingDefaults()
    found = with_stated_sampling(defaults, {"sampling": text})
    assert found == replace(defaults, **expected)
    assert all(type(getattr(found, name)) is type(value) for name, value in vars(defaults).items())
    assert detect(tiny.transformer().state_dict(), metadata={"sampling": text}).sampling == found


WRONG = ['{"steps": 2.5}', '{"steps": 0}', '{"steps": true}', '{"steps": [1]}', '{"steps": 1e999}', '{"steps": 1e9}',
         '{"shift": NaN}', '{"shift": 0}', '{"shift": "x"}', '{"guidance_scale": Infinity}', '{"sampler": "euler"}',
         '{"sampler": 3}', '{"width": -64}', "[1]", "{", "3", "null"]  # fmt: skip


@pytest.mark.parametrize("text", WRONG)
def test_settings_that_cannot_be(text):
    with pytest.raises(CheckpointError, match="the metadata entry `sampling`"):
        with_stated_sampling(SamplingDefaults(), {"sampling": text})


@pytest.mark.parametrize("wrong", [3, None, ["nano"], 2.5])
def test_what_no_pipeline_comes_from(wrong):
    with pytest.raises(InputError):
        pipeline_files(wrong)
