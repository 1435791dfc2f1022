"""The session of --interactive: lines from a pipe, and from a terminal."""

import io
import json
import sys
from pathlib import Path

import pytest

import sana_core.cli as cli
from sana_core.cli import interactive, main
from sana_core.cli.interactive import command, shown
from sana_core.errors import InputError
from sana_core.pipeline import Request

QUICK = ["--interactive", "--size", "32", "--steps", "1", "--device", "cpu"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def piped(monkeypatch, text):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode()), encoding="ascii"))


def test_lines_of_a_pipe(folder, monkeypatch, capsys):
    piped(monkeypatch, "\ufeffa \u732b\n\n/seed 7\n/size 64x32\r\na dog\n/seed\n/size\na dog\n/quit\nnot drawn\n")
    assert main([*QUICK, "--seed", "5", "-o", "{seed}.png", "--json", "--quiet"]) == 0
    said = capsys.readouterr()
    found = [json.loads(line) for line in said.out.splitlines()]
    assert [(item["prompt"], item["seed"], item["width"], item["file"]) for item in found] == [
        ("a \u732b", 5, 32, "5.png"),
        ("a dog", 7, 64, "7.png"),
        ("a dog", 5, 32, "5-0001.png"),
    ]
    assert said.err == "" and all(Path(item["file"]).is_file() for item in found)


def test_an_error_costs_its_line(folder, monkeypatch, capsys):
    piped(monkeypatch, "/steps many\n/steps -1\n/size 33\n/what\na cat\n")
    assert main([*QUICK, "--quiet", "-o", "a.png"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 5 and all(line.startswith("sana: error: ") for line in lines)
    assert "4 of the lines failed" in lines[-1] and [path.name for path in folder.iterdir()] == ["a-0001.png"]


def test_the_model_is_loaded_once_and_a_first_prompt_is_drawn(folder, monkeypatch):
    pipelines, real = [], cli._draw
    monkeypatch.setattr(cli, "_draw", lambda *a: pipelines.append(a[0]) or real(*a))
    piped(monkeypatch, "a dog")  # without an end of the line
    assert main(["a cat", *QUICK, "--quiet"]) == 0
    assert len(pipelines) == 2 and pipelines[0] is pipelines[1]


def test_without_stdin(folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", None)
    assert main(QUICK) == 2 and "there is none" in capsys.readouterr().err


@pytest.fixture
def typing(monkeypatch):
    """Lines, or errors, that a person types."""

    def type_(*lines):
        left = iter(lines)

        def line():
            found = next(left, EOFError())
            if isinstance(found, BaseException):
                raise found
            return found

        monkeypatch.setattr(interactive, "is_terminal", lambda stream: stream is sys.stdin)
        monkeypatch.setattr(interactive, "_typed_line", line)
        monkeypatch.setattr(sys, "stdin", io.StringIO())

    return type_


def test_ctrl_c_stops_the_picture_and_a_second_one_ends(folder, monkeypatch, typing, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_draw", interrupted)
    typing("a cat", "/show", KeyboardInterrupt(), "a dog")
    assert main(QUICK) == 130
    said = capsys.readouterr().err
    assert "stopped; Ctrl-C once more" in said and "/size 32x32  /steps 1" in said and not list(folder.iterdir())
    typing("a cat")  # then Ctrl-D
    assert main(QUICK) == 0


def test_errors_that_were_typed_are_no_failure(folder, typing):
    typing("/what", "/help")
    assert main(QUICK) == 0


def test_commands():
    before = Request("", steps=4, negative_prompt="n")
    settings = before
    for line in ("/size 64", "/steps 9", "/cfg 2.5", "/negative a b", "/batch 3", "/seed -1"):
        settings = command(line, settings, before, print)
    assert shown(settings) == "/size 64x64  /steps 9  /cfg 2.5  /seed -1  /negative a b  /batch 3"
    for line in ("/size", "/steps", "/cfg", "/negative", "/batch", "/seed"):
        settings = command(line, settings, before, print)
    assert settings == before
    for line in ("/cfg nan", "/seed 1.5", "/batch 0", "/size 1", "/sizes 64"):
        with pytest.raises(InputError):
            command(line, settings, before, print)
