"""The commands, and how errors, interrupts and missing streams end one."""

import io
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import sana_core
import sana_core.cli as cli
from sana_core.cli import main
from sana_core.cli.main import COMMANDS

ROOT = Path(__file__).parents[3]
QUICK = ["--size", "32", "--steps", "1", "--seed", "1", "--device", "cpu"]


@pytest.fixture
def drawn(monkeypatch):
    """What is drawn from now on: (pipeline, request, callback) each time."""
    calls, real = [], cli._draw
    monkeypatch.setattr(cli, "_draw", lambda *a: calls.append(a) or real(*a))
    return calls


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "prompt"),
    [
        (["a red apple"], "a red apple"),
        (["draw", "a red apple"], "a red apple"),
        (["draw", "draw"], "draw"),
        (["draw a red apple"], "draw a red apple"),
        (["Draw"], "Draw"),
        (["--quiet", "draw"], "draw"),
        (["--", "draw"], "draw"),
        (["drawing"], "drawing"),
    ],
    ids=str,
)
def test_a_command_is_the_first_argument_if_it_is_exactly_its_name(folder, drawn, words, prompt):
    options = ["-o", "x.png", *QUICK]
    assert main([*options, *words] if words[0] == "--" else [*words, *options]) == 0
    ((_, request, _),) = drawn
    assert request.prompt == (prompt,) and (folder / "x.png").is_file()


def test_a_command_without_what_it_needs(folder, capsys):
    assert main(["draw"]) == 2
    assert capsys.readouterr().err == "sana: error: there is nothing to draw: give a prompt, or --prompt-file\n"


def test_a_prompt_without_quotes(folder, capsys):
    for words in (["a", "red", "apple"], ["draw", "a", "red", "apple"]):
        with pytest.raises(SystemExit) as stop:
            main(words)
        assert stop.value.code == 2
        assert "red apple (a prompt of several words stands in quotes)" in capsys.readouterr().err


def test_a_word_too_many_is_no_prompt_where_nothing_is_drawn(folder, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["verify", "sana.pth"])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.endswith("unrecognized arguments: sana.pth (--help lists the options)\n")


@pytest.mark.parametrize("words", [["--help"], ["draw", "--help"]], ids=str)
def test_help(capsys, words):
    with pytest.raises(SystemExit) as stop:
        main(words)
    said = capsys.readouterr()
    assert stop.value.code == 0 and "--prompt-file" in said.out and not said.err
    if words == ["--help"]:  # the commands, too
        assert all(re.search(rf"^  {name} ", said.out, re.MULTILINE) for name in COMMANDS)


def test_a_python_that_does_not_look_into_the_current_folder(tmp_path):
    command = [sys.executable, "-I", str(ROOT / "sana_core"), "--version"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "") and sana_core.__version__ in done.stdout


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    stated = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert stop.value.code == 0 and capsys.readouterr().out == f"sana-native {sana_core.__version__}\n"
    assert stated and stated[1] == sana_core.__version__


# --- how a command ends


def raising(monkeypatch, error):
    def draw(*_):
        raise error

    monkeypatch.setattr(cli, "_draw", draw)


def test_ctrl_c_ends_quietly(folder, monkeypatch, capsys):
    raising(monkeypatch, KeyboardInterrupt())
    assert main(["a cat", "--quiet", *QUICK]) == 130
    assert capsys.readouterr() == ("", "") and not list(folder.iterdir())


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore\nlines"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB)"),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_out_of_memory_names_what_helps(folder, monkeypatch, capsys, error):
    raising(monkeypatch, error)
    assert main(["a cat", "--quiet", *QUICK]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("sana: error: out of memory") and "--offload" in said


def test_a_mistake_of_ours_keeps_its_traceback(folder, monkeypatch):
    raising(monkeypatch, RuntimeError("shape mismatch"))
    with pytest.raises(RuntimeError, match="shape mismatch"):
        main(["a cat", "--quiet", *QUICK])


def test_hostile_text_in_an_error_is_one_short_line(folder, capsys):
    assert main(["a cat", "--image", "\x1b[31m\r\n\u2028" * 2000 + "end", "--quiet"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and len(said) < 1000 and said[:-1].isprintable()
    with pytest.raises(SystemExit):
        main(["a cat", "--size", "\x1b[31m\n" * 2000])
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and len(said) < 1000 and said[:-1].isprintable()


# --- streams


class Closed(io.StringIO):
    """A stream whose reader has gone, or whose disk is full."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def write(self, text):
        raise self.error


@pytest.mark.parametrize("name", ["stdout", "stderr"])
@pytest.mark.parametrize("stream", [None, Closed(BrokenPipeError()), Closed(OSError(28, "No space left"))], ids=repr)
def test_streams_that_are_not_there(folder, monkeypatch, name, stream):
    monkeypatch.setattr(sys, name, stream)
    assert main(["a cat", "-o", "x.png", "--offload", *QUICK]) == 0 and (folder / "x.png").is_file()
    assert main(["a cat", "-o", "x.gif"]) == 2
    for words in (["--help"], ["--version"], ["--what"]):
        with pytest.raises(SystemExit):
            main(words)


def test_no_streams_at_all(folder, monkeypatch):
    """pythonw, a service."""
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    assert main(["a cat", "-o", "x.png", *QUICK]) == 0 and main(["--prompt-file", "-"]) == 2


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_file_names_on_a_stream_of_another_code_page(folder, monkeypatch, encoding):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    name = "\u82f9\u679c.png"
    assert main(["a cat", "-o", name, *QUICK]) == 0 and (folder / name).is_file()
    said = written.getvalue().decode(encoding)
    assert said.strip() == (name if encoding == "utf-8" else r"\u82f9\u679c.png")


@pytest.mark.skipif(sys.platform == "win32", reason="signals and pipes of POSIX")
def test_a_reader_that_goes_away(folder):
    command = f'"{sys.executable}" -m sana_core a -o {folder}/x.png --quiet {" ".join(QUICK)}; echo "code $?" >&2'
    ended = subprocess.run(f"({command.replace(' --quiet', '')}) | true", shell=True, cwd=ROOT, capture_output=True)
    assert b"code 0" in ended.stderr and b"Exception" not in ended.stderr and b"Traceback" not in ended.stderr
