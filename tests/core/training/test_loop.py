"""A training as a whole: it learns, logs, stops in time, resumes exactly, and refuses checkpoints of others."""

import itertools
import json

import pytest
import torch
from torch import nn

from sana_core.errors import CheckpointError, DivergedError
from sana_core.training.average import Average
from sana_core.training.batches import load_batches, step_generator
from sana_core.training.loop import LoopSettings, Training
from sana_core.training.state import TrainingState, read_state

TARGET = torch.randn(32, 64, generator=torch.Generator().manual_seed(9))


def make(step):
    return torch.randn(16, 64, generator=step_generator(0, step))


class Killed(BaseException):
    """Not an error that anything would catch."""


def training(folder, *, steps=12, seed=0, **settings):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.Linear(32, 32))
    first, second = model
    optimizers = [
        torch.optim.SGD(first.parameters(), lr=0.3, momentum=0.9),
        torch.optim.AdamW(second.parameters(), lr=0.05),
    ]
    state = TrainingState(model=model, optimizers=optimizers, average=Average(model, 0.9))
    chosen = LoopSettings(
        **{"steps": steps, "warmup": 2, "decay": 0.5, "weights": {}, "log_every": 2, "save_seconds": 0.0, **settings}
    )
    return Training("fit", folder, state, chosen, {"seed": seed})


def losses(run, killed_at=None):
    def compute(batch, step):
        if step == killed_at:
            raise Killed
        return {"error": (run.state.model(batch) - batch @ TARGET.T).square().mean()}

    return compute


def train(folder, killed_at=None, **settings):
    run = training(folder, **settings)
    batches = load_batches(make, run.state.step, run.settings.steps)
    return run, run.run(batches, losses(run, killed_at))


def test_a_killed_run_ends_with_the_same_weights_bit_for_bit(tmp_path):
    whole, finished = train(tmp_path / "whole")
    assert finished
    with pytest.raises(Killed):
        train(tmp_path / "killed", killed_at=7)
    resumed, finished = train(tmp_path / "killed")
    assert finished
    for part in ("model", "average"):
        found, wanted = (read_state(run.checkpoint)[part] for run in (resumed, whole))
        assert wanted and all(torch.equal(found[key], wanted[key]) for key in wanted)
    lines = [run.log.lines() for run in (whole, resumed)]
    assert [line["step"] for line in lines[0]] == [line["step"] for line in lines[1]] == [2, 4, 6, 8, 10, 12]
    assert lines[0][-1]["error"] < 0.7 * lines[0][0]["error"]


def test_what_was_logged_after_the_checkpoint_is_logged_again(tmp_path):
    with pytest.raises(Killed):
        train(tmp_path, killed_at=7, save_seconds=1e9)  # nothing was saved
    run, _ = train(tmp_path)
    assert [line["step"] for line in run.log.lines()] == [2, 4, 6, 8, 10, 12]


def test_a_run_stops_in_time_and_continues(tmp_path):
    steps = []
    for _ in range(40):
        run, finished = train(tmp_path, minutes=0.0)
        steps.append(run.state.step)
        if finished:
            break
    assert steps == list(range(1, 13))


def test_reports_are_logged(tmp_path):
    run = training(tmp_path, report_every=5)
    run.run(load_batches(make, 0, 12), losses(run), lambda step: {"twice": 2 * step})
    assert [(line["step"], line["twice"]) for line in run.log.lines() if "twice" in line] == [
        (5, 10),
        (10, 20),
        (12, 24),
    ]


@pytest.mark.parametrize(
    ("change", "words"), [({"seed": 1}, "seed 0 instead of 1"), ({"steps": 20}, "steps 12 instead of 20")]
)
def test_another_training_is_not_continued(tmp_path, change, words):
    train(tmp_path, minutes=0.0)
    with pytest.raises(CheckpointError, match=words):
        training(tmp_path, **change)


def test_a_checkpoint_that_is_none_is_refused(tmp_path):
    (tmp_path / "fit.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match="not a saved training"):
        training(tmp_path)
    with pytest.raises(CheckpointError, match="run the stage"):
        read_state(tmp_path / "absent.pt")


def test_a_loss_that_is_not_finite_stops_before_it_is_saved(tmp_path):
    run = training(tmp_path, log_every=1)
    broken = losses(run)

    def compute(batch, step):
        found = broken(batch, step)
        return {name: loss * (float("nan") if step == 4 else 1.0) for name, loss in found.items()}

    words = r"^at step 5 the training went astray \(error is not finite\): begin anew .*fit.pt keeps step 4"
    with pytest.raises(DivergedError, match=words):
        run.run(load_batches(make, 0, 12), compute)
    assert read_state(run.checkpoint)["step"] == 4


def test_what_is_found_at_the_next_line_of_the_log_names_the_steps_and_what_helps(tmp_path):
    run = training(tmp_path, log_every=4, decay=0.0, save_seconds=1e9)

    def compute(batch, step):
        return {name: loss * (float("inf") if step == 6 else 1.0) for name, loss in fit(batch, step).items()}

    fit = losses(run)
    run.run(load_batches(make, 0, 12), fit, stop=lambda: run.state.step == 3)
    with pytest.raises(DivergedError, match=r"^in the steps 5 to 8 .*fit.pt keeps step 3.* with --steps 3 writes"):
        run.run(load_batches(make, 3, 12), compute)


@pytest.mark.parametrize(("factors", "warned"), [((1.0, 4.0), True), ((1.0, 2.5), False), ((4.0, 1.0), False)])
def test_a_loss_that_stays_far_above_its_beginning_is_told_once(tmp_path, caplog, factors, warned):
    def compute(batch, step):
        found = 0.0 * losses(run)(batch, step)["error"]
        return {"error": found + factors[step >= 8]}

    for steps in (10, 20):  # what the log holds counts when the training goes on
        run = training(tmp_path, steps=steps, log_every=1, decay=0.0)
        run.run(load_batches(make, run.state.step, steps), compute)
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(told) == warned and all("error has risen from 1 to 4 and stays there" in line for line in told)


def test_batches_are_the_same_with_workers():
    alone, ahead = (list(itertools.islice(load_batches(make, 3, 7, workers=count), 4)) for count in (0, 1))
    assert all(torch.equal(a, b) for a, b in zip(alone, ahead, strict=True)) and not torch.equal(alone[0], alone[1])


def test_the_average_follows_slowly():
    model = nn.Linear(2, 2, bias=False)
    nn.init.zeros_(model.weight)
    average = Average(model, 0.99)
    nn.init.ones_(model.weight)
    average.update(50)  # half way in a short training
    assert average.tensors["weight"].unique().tolist() == [0.5]
    average.update(10**6)
    with average.applied():
        assert model.weight.unique().item() == pytest.approx(0.505)
    assert model.weight.unique().item() == 1.0


def test_a_log_survives_a_kill(tmp_path):
    run, _ = train(tmp_path)
    with run.log.path.open("a") as file:
        file.write('{"step": 14, "err')
    assert [line["step"] for line in run.log.lines()] == [2, 4, 6, 8, 10, 12]
    assert json.loads(run.log.path.read_text().splitlines()[0])["step"] == 2
