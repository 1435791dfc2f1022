"""The bar: on a terminal alone."""

import io
import sys

import pytest

from sana_core.cli import main
from sana_core.cli.progress import bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def test_speed_and_time_left(terminal):
    with bar("1/2", quiet=False) as show:
        assert show is not None
        for step in range(4):
            show(step + 1, 4)
    assert "1/2" in terminal.getvalue() and "it/s" in terminal.getvalue() and "<" in terminal.getvalue()


def test_a_picture_on_a_terminal(terminal, tmp_path):
    assert main(["a cat", "--steps", "3", "--seed", "7", "-o", str(tmp_path / "a.png")]) == 0
    assert "\r" in terminal.getvalue() and "1/1: seed 7, 256x256, 3 steps" in terminal.getvalue()


def test_none_when_quiet_or_elsewhere(terminal, monkeypatch):
    with bar("x", quiet=True) as show:
        assert show is None
    for stream in (None, io.StringIO()):
        monkeypatch.setattr(sys, "stderr", stream)
        with bar("x", quiet=False) as show:
            assert show is None
    assert terminal.getvalue() == ""


def test_a_terminal_that_is_closed_meanwhile(terminal):
    with bar("x", quiet=False) as show:
        assert show is not None
        show(1, 2)
        terminal.close()
        show(2, 2)
