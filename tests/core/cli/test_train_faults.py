"""What can go wrong with `train`: one line, nothing half written, nothing lost."""

import json
import os
import signal
import sys

import pytest
import torch
from filelock import FileLock
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from sana_core.cli import main
from sana_core.training import jobs, loop, planned, state
from sana_core.training.data import cache
from sana_core.training.processes import Processes

QUICK = ("--steps", "3", "--batch", "2", "--at-once", "2", "--rank", "2", "--device", "cpu", "-q")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for index, colour in enumerate(("red", "blue", "green")):
        Image.new("RGB", (256, 256), colour).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(f"a {colour} zorble")
    return folder


@pytest.fixture(scope="module")
def trained(pictures, tmp_path_factory):
    """A training that has ended: its file."""
    target = tmp_path_factory.mktemp("trained") / "new.safetensors"
    assert main(["train", "lora", "--data", str(pictures), "--out", str(target), *QUICK]) == 0
    return target


@pytest.fixture
def target(tmp_path):
    return tmp_path / "new.safetensors"


def failed(capsys, pictures, target, *options):
    """The one line of an error."""
    assert main(["train", "lora", "--data", str(pictures), "--out", str(target), *QUICK, *map(str, options)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--weight-decay", "-1"], "--weight-decay is -1.0, expected at least 0"),
        (["--seed", "-1"], "--seed is -1, expected from 0"),
        (["--seed", "9" * 25], "expected from 0 to"),
        (["--steps", "9" * 20], "expected from 1 to 1000000000"),
        (["--minutes", "-1"], "--minutes is -1.0"),
        (["--sample-every", "-1"], "--sample-every is -1"),
        (["--save-seconds", "-1"], "--save-seconds is -1.0"),
        (["--shift", "-1"], "--shift is -1.0, expected more than 0"),
        (["--prior-prompt", " "], "has no words"),
        (["--prior-prompt", "a dog", "--prior-count", "0"], "--prior-count is 0"),
        (["--prior-prompt", "a dog", "--prior-weight", "-1"], "--prior-weight is -1.0"),
        (["--optimizer", "adamw8bit"], "needs a GPU"),
    ],
)
def test_what_cannot_be_is_known_before_anything_is_encoded(pictures, target, capsys, options, words):
    assert words in failed(capsys, pictures, target, *options)
    assert list(target.parent.iterdir()) == []


def test_names_of_files_are_checked_first(pictures, tmp_path, capsys):
    assert "is a .safetensors file: name it so" in failed(capsys, pictures, tmp_path / "new.bin")
    assert ". is no name of a file: give --out one" in failed(capsys, pictures, ".")
    (tmp_path / "file").write_text("somebody's")
    line = failed(capsys, pictures, tmp_path / "new.safetensors", "--folder", tmp_path / "file")
    assert "cannot be the folder of a training" in line and (tmp_path / "file").read_text() == "somebody's"


def test_a_lora_of_another_rank_is_refused_before_anything_is_encoded(pictures, trained, target, capsys):
    assert "has rank 2, not 4" in failed(capsys, pictures, target, "--rank", 4, "--continue-from", trained)
    assert list(target.parent.iterdir()) == []


def test_without_a_kind_the_kinds_are_named(capsys):
    with pytest.raises(SystemExit):
        main(["train"])
    assert "are required: lora|controlnet|model" in capsys.readouterr().err


def test_a_wrong_option_as_json(pictures, target, capsys):
    with pytest.raises(SystemExit):
        main(["train", "lora", "--data", str(pictures), "--out", str(target), "--json", "--steps", "x"])
    found = capsys.readouterr()
    assert "invalid int value" in json.loads(found.out)["error"] and found.err == ""


@pytest.mark.parametrize("content", [b"", b"nonsense", {}, [1], {"recipe": "[1]"}, "other shapes", "no step"], ids=str)
def test_a_damaged_checkpoint(pictures, trained, capsys, content):
    checkpoint = trained.with_suffix(".training") / "training.pt"
    kept, written = checkpoint.read_bytes(), trained.read_bytes()
    try:
        if isinstance(content, bytes):
            checkpoint.write_bytes(content)
        else:
            saved = state.read_state(checkpoint)
            first = next(iter(saved["model"]))
            if content == "other shapes":
                saved["model"][first] = saved["model"][first][:1, :1]
            elif content == "no step":
                del saved["step"]
            torch.save(saved if isinstance(content, str) else content, checkpoint)
        assert "is not a saved training, or it is damaged: delete it" in failed(capsys, pictures, trained)
    finally:
        checkpoint.write_bytes(kept)
    assert trained.read_bytes() == written


def test_a_damaged_log(pictures, trained, capsys):
    log = trained.with_suffix(".training") / "training.jsonl"
    log.write_bytes(b'{"step": 1}\n{"x"}\nnull\n\xff}\n')
    assert main(["train", "lora", "--data", str(pictures), "--out", str(trained), *QUICK]) == 0
    assert log.read_text() == '{"step": 1}\n'


def test_fewer_steps_than_were_made_are_done(pictures, trained, capsys):
    command = ["train", "lora", "--data", str(pictures), "--out", str(trained), *QUICK, "--steps", "2", "--json"]
    assert main(command) == 0 and json.loads(capsys.readouterr().out)["finished"]


def test_another_training_in_the_folder(pictures, trained, capsys):
    with FileLock(trained.with_suffix(".training") / "training.lock"):
        assert "another training is going on in" in failed(capsys, pictures, trained)


def test_a_full_disk_keeps_the_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "training.pt"
    (tmp_path / "training.pt.0123.partial").write_bytes(b"left by a kill")
    state.write_state({"step": 1}, path)

    def full(content, file):
        file.write(b"half")
        raise RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed")

    monkeypatch.setattr(state.torch, "save", full)
    with pytest.raises(state.InputError, match="cannot be written"):
        state.write_state({"step": 2}, path)
    monkeypatch.undo()
    assert state.read_state(path)["step"] == 1 and [item.name for item in tmp_path.iterdir()] == ["training.pt"]


def test_weights_that_are_not_finite_are_never_written(pictures, trained, target, capsys):
    broken = {key: torch.full_like(tensor, 1e30) for key, tensor in load_file(trained).items()}
    save_file(broken, target.with_name("start.safetensors"))
    line = failed(capsys, pictures, target, "--continue-from", target.with_name("start.safetensors"))
    assert "went astray" in line and "nothing was saved before" in line
    assert not target.exists() and not (target.with_suffix(".training") / "training.pt").exists()


def test_a_step_that_breaks_the_weights_is_not_saved(pictures, target, capsys, monkeypatch):
    step = loop.Training._step

    def breaks(self, *given):
        found = step(self, *given)
        next(self.state.model.parameters()).data.fill_(float("inf"))
        return found

    monkeypatch.setattr(loop.Training, "_step", breaks)
    assert "its weights are not finite" in failed(capsys, pictures, target, "--minutes", 0)
    assert not target.exists() and not (target.with_suffix(".training") / "training.pt").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.usefixtures("usual_signals")
def test_a_signal_ends_the_encoding_of_pictures(pictures, target, capsys, monkeypatch, number, code):
    encoded, write = [], cache.TensorFiles.write

    def interrupted(self, key, tensor):
        write(self, key, tensor)
        encoded.append(key)
        if key[0] == "latent":
            os.kill(os.getpid(), number)

    monkeypatch.setattr(cache.TensorFiles, "write", interrupted)
    assert main(["train", "lora", "--data", str(pictures), "--out", str(target), *QUICK]) == code
    assert [key[0] for key in encoded].count("latent") == 1 and not target.exists()


def test_a_folder_of_another_training_does_not_let_a_file_be_replaced(pictures, trained, target, capsys):
    target.write_text("somebody's")
    folder = trained.with_suffix(".training")
    assert "is there already" in failed(capsys, pictures, target, "--folder", folder)
    assert target.read_text() == "somebody's"


def test_condition_pictures_are_in_a_folder_of_their_own(pictures, target, capsys):
    command = ["train", "controlnet", "--data", str(pictures), "--conditions", str(pictures), "--out", str(target)]
    assert main([*command, "--device", "cpu", "-q"]) == 2
    assert "is the folder of the pictures: name another one" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.usefixtures("usual_signals")
def test_ctrl_c_ends_after_a_step_and_the_same_command_goes_on(pictures, trained, target, capsys, monkeypatch):
    command = ["train", "lora", "--data", str(pictures), "--out", str(target), *QUICK, "--json"]
    train = jobs.train

    def interrupted(*given, **options):
        os.kill(os.getpid(), signal.SIGINT)
        return train(*given, **options)

    monkeypatch.setattr(jobs, "train", interrupted)
    before = signal.getsignal(signal.SIGINT)
    assert main(command) == 130
    found = capsys.readouterr()
    assert not json.loads(found.out)["finished"] and "ends after this step and keeps what is done" in found.err
    assert signal.getsignal(signal.SIGINT) is before
    monkeypatch.undo()
    assert main(command) == 0 and json.loads(capsys.readouterr().out)["finished"]
    found, wanted = load_file(target), load_file(trained)
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_a_full_disk_while_pictures_are_encoded(pictures, target, capsys, monkeypatch):
    def full(tensors, path, metadata):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(cache, "save_file", full)
    assert "cannot be written (Error while serializing" in failed(capsys, pictures, target)
    assert not [path for path in target.parent.rglob("*") if path.suffix == ".partial"]


def test_the_plan_of_an_optimizer_that_needs_a_gpu(pictures, target, capsys, monkeypatch):
    monkeypatch.setattr(planned, "check_job", lambda job, processes: None)  # there is no GPU here
    sizes = {}
    for optimizer in ("adamw", "adamw8bit"):
        options = ("--optimizer", optimizer, "--rank", "64", "--targets", "all", "--plan", "--json")
        assert main(["train", "lora", "--data", str(pictures), "--out", str(target), *QUICK, *options]) == 0
        found = json.loads(capsys.readouterr().out)
        sizes[optimizer] = found["bytes"]["steps"]
    spared = (sizes["adamw"] - sizes["adamw8bit"]) / found["trained"]
    assert spared == pytest.approx(6, rel=1e-3)  # 8 bytes a number, and 2


def test_a_batch_that_the_processes_cannot_share(pictures, target, capsys, monkeypatch):
    monkeypatch.setattr(Processes, "count", 2)
    assert "the batch has to be a multiple of" in failed(capsys, pictures, target)
    assert list(target.parent.iterdir()) == []
