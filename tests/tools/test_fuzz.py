"""A short run of the fuzzer over files, and what it must be able to see. The long one: python -m tools.fuzz."""

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

pytest.importorskip("sentencepiece")
pytest.importorskip("tokenizers")

from sana_core.errors import InputError
from tools.fuzz import run
from tools.fuzz.__main__ import main
from tools.fuzz.run import fuzz
from tools.fuzz.target import Target
from tools.fuzz.targets import FILE_TARGETS

CASES = 90  # of each target
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from Linux's /proc")


@pytest.mark.parametrize("target", FILE_TARGETS, ids=lambda target: target.name)
def test_every_damaged_file_is_read_or_refused(target):
    result = fuzz(target, 0, range(CASES), jobs=2)
    assert [str(failure) for failure in result.failures] == []
    assert result.cases == CASES and result.refused > 0


@pytest.mark.parametrize("target", FILE_TARGETS, ids=lambda target: target.name)
def test_the_undamaged_files_are_read(target, tmp_path):
    (tmp_path / "x").mkdir()
    for name, content in target.seeds()[0].items():
        (tmp_path / "x" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "x" / name).write_bytes(content)
    target.read(tmp_path / "x")


def planted(read, **options):
    return Target(name="planted", seeds=lambda: [{"x.json": b'{"a": 1}'}], read=read, **options)


def first_time(act):
    """Acts in the processes that run cases, not where it is planted."""
    home = os.getpid()
    return lambda folder: None if os.getpid() == home else act(folder)


def compute(folder):
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass


def refuse(folder):
    raise InputError("no")


PLANTED = {
    "exception": lambda folder: 1 / 0,
    "execution": lambda folder: subprocess.run("true"),
    "execution of a text": lambda folder: exec("1"),  # noqa: S102
    "execution by a pickle": lambda folder: __import__("pickle").loads(b"cos\ngetcwd\n."),
    "execution in another folder": lambda folder: Path(f"{Path.home()}/nowhere/x").write_bytes(b""),
    "allocation": lambda folder: bytearray(b"x" * (80 << 20)),
    "allocation that is refused": lambda folder: bytearray(1 << 40),
    "slow": compute,
    "crash": lambda folder: os.kill(os.getpid(), signal.SIGSEGV),
}


@pytest.mark.parametrize("kind", PLANTED)
def test_planted_failures_are_found(kind, tmp_path):
    result = fuzz(planted(first_time(PLANTED[kind]), seconds=0.1), 3, range(2), keep=tmp_path)
    assert [failure.verdict for failure in result.failures] == [kind.split()[0]] * 2
    assert str(result.failures[1]).endswith("python -m tools.fuzz --target planted --seed 3 --case 1")
    assert len(list(tmp_path.glob("planted-3-*/x.json"))) == 2


def test_a_hang_is_found(monkeypatch):
    monkeypatch.setattr("tools.fuzz.run.HANGS", 0.5)
    result = fuzz(planted(first_time(lambda folder: time.sleep(60))), 0, range(1))
    assert [failure.verdict for failure in result.failures] == ["hang"]


def test_results_and_refusals_are_no_failures():
    assert fuzz(planted(lambda folder: None), 0, range(3)).accepted == 3
    assert fuzz(planted(refuse), 0, range(3)).refused == 3


def test_a_case_is_always_the_same():
    for target in FILE_TARGETS[:3]:
        assert target.case(1, 7) == target.case(1, 7) != target.case(1, 8)


def test_the_command(capsys, monkeypatch):
    assert main(["--cases", "20", "--target", "prompt_file", "lora"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in table[1:4]] == [["prompt_file", "10"], ["lora", "10"], ["all", "20"]]
    failing = {"planted": planted(first_time(PLANTED["exception"]))}
    monkeypatch.setattr("tools.fuzz.__main__.all_targets", lambda: failing)
    assert main(["--case", "5"]) == 1
    assert "--seed 0 --case 5" in capsys.readouterr().out


def test_nothing_of_it_stays_behind():
    before = set(Path(tempfile.gettempdir()).glob("fuzz-*"))
    fuzz(planted(refuse), 0, range(2))
    assert set(Path(tempfile.gettempdir()).glob("fuzz-*")) <= before


def test_nothing_of_it_stays_behind_after_ctrl_c(monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    before = set(Path(tempfile.gettempdir()).glob("fuzz-*"))
    monkeypatch.setattr(run, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fuzz(planted(refuse), 0, range(2))
    assert set(Path(tempfile.gettempdir()).glob("fuzz-*")) <= before and not multiprocessing.active_children()
