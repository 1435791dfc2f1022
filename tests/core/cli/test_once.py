"""What several processes of a training say alike is said once, and an error of one of them is its own."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from sana_core.cli import main, once
from sana_core.cli.main import COMMANDS
from sana_core.errors import InputError

ROOT = Path(__file__).parents[3]
PICTURES = ROOT / "sana_core" / "nano" / "pictures" / "zorble"


@pytest.fixture
def companions(monkeypatch):
    """This process is one of two, which find each other; each call of `another` makes it another one."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for name, value in {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}.items():
        monkeypatch.setenv(name, value)
    once._store.cache_clear()
    yield store
    once._store.cache_clear()


def ending(monkeypatch, *errors):
    """The command `train` ends with these errors, one after another."""
    left = iter(errors)

    def run(args):
        raise next(left)

    monkeypatch.setitem(COMMANDS, "train", replace(COMMANDS["train"], run=run))
    return ["train", "lora", "--data", "x", "--out", "y"]


def test_an_error_of_all_is_told_by_one(companions, monkeypatch, capsys):
    command = ending(monkeypatch, *(InputError(text) for text in ("of all", "of all", "its own")))
    assert [main(command) for _ in range(3)] == [2, 2, 2]
    assert capsys.readouterr().err.splitlines() == ["sana: error: of all", "sana: error: its own"]
    for _ in range(2):
        with pytest.raises(SystemExit, match="2"):
            main(["train", "lora", "--json"])
    (line,) = capsys.readouterr().out.splitlines()
    assert "are required" in json.loads(line)["error"]


def test_an_error_of_the_exchange_is_no_news_after_the_error_of_another(companions, monkeypatch, capsys):
    lost = RuntimeError("Connection closed by peer")
    command = ending(monkeypatch, InputError("the cause"), lost)
    assert [main(command) for _ in range(2)] == [2, 2] and capsys.readouterr().err == "sana: error: the cause\n"
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    with pytest.raises(RuntimeError, match="closed by peer"):
        main(ending(monkeypatch, lost))


def test_who_cannot_ask_the_others_says_everything(companions, monkeypatch, capsys):
    monkeypatch.setenv("MASTER_PORT", "no port")
    assert [main(ending(monkeypatch, InputError("of all"))) for _ in range(2)] == [2, 2]
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_other_commands_do_not_work_together(companions, capsys):
    for _ in range(2):
        assert main(["grow", "absent", "new.safetensors", "--depth", "9"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2


@pytest.mark.slow
def test_two_processes_of_torchrun(tmp_path):
    pytest.importorskip("accelerate", reason="several processes need accelerate: pip install accelerate")
    target = tmp_path / "new.safetensors"

    def told(*options):
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "sana_core"]
        command = ["train", "lora", "--data", str(PICTURES), "--out", str(target), "--device", "cpu", *options]
        ended = subprocess.run(
            [sys.executable, *launch, *command], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        return ended.returncode, ended.stdout, re.findall(r"^sana: error: (.*)$", ended.stderr, re.MULTILINE)

    assert told("--steps", "0") == (1, "", ["--steps is 0, expected from 1 to 1000000000"])
    code, out, _ = told("--steps", "2", "--plan", "--json")
    assert code == 0 and json.loads(out)["steps"] == 2
    code, _, errors = told("--steps", "4", "--rate", "1e30")
    assert code == 1 and len(errors) == 1 and "the training went astray" in errors[0]
