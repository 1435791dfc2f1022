"""Ctrl-C and other signals: quiet, whenever they come, and no unfinished file."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_pipeline

from sana_core.cli import main

ROOT = Path(__file__).parents[3]
pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX"),
    pytest.mark.usefixtures("usual_signals"),
]
SELF = "import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(9)"


@pytest.mark.parametrize("command", [["-m", "sana_core"], ["-msana_core"]], ids=str)
def test_ctrl_c_while_torch_is_imported(tmp_path, command):
    (tmp_path / "torch.py").write_text(SELF)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    ended = subprocess.run([sys.executable, *command, "x"], cwd=tmp_path, env=environment, capture_output=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, b"", b"")


def test_a_program_that_imports_the_library_keeps_its_own_ctrl_c(tmp_path):
    (tmp_path / "torch.py").write_text(SELF)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    code = "try:\n import sana_core\nexcept KeyboardInterrupt:\n print('mine')"
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "mine\n")


@pytest.mark.parametrize(("number", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_leaves_no_file(tmp_path, monkeypatch, capsys, number, code):
    from sana_core.quantiser import sinks

    number = getattr(signal, number)
    files = tiny_pipeline.write_files(tmp_path)
    (tmp_path / "new").mkdir()
    before = signal.getsignal(number)
    monkeypatch.setattr(sinks, "quantise", lambda *args, **options: os.kill(os.getpid(), number))
    words = [str(files["transformer"]), str(tmp_path / "new" / "x.safetensors"), "--format", "int8"]
    assert main(["quantize", *words]) == code
    assert "rror" not in capsys.readouterr().err and list((tmp_path / "new").iterdir()) == []
    assert signal.getsignal(number) == before


def test_help_to_a_reader_that_goes_away():
    command = f'("{sys.executable}" -m sana_core --help; echo "code $?" >&2) | head -1'
    ended = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert ended.stderr == "code 0\n" and ended.stdout.startswith("usage: ")
