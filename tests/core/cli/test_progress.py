"""The bar: on a terminal alone."""

import io
import sys
import time

import pytest

from sana_core.cli import main
from sana_core.cli import pace as paces
from sana_core.cli.progress import bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """What makes stderr a terminal; pytest sets its own stderr between a fixture and its test."""

    def begin():
        stream = Terminal()
        monkeypatch.setattr(sys, "stderr", stream)
        return stream

    return begin


def test_speed_and_time_left(terminal):
    stream = terminal()
    with bar("1/2", quiet=False) as show:
        assert show is not None
        for step in range(4):
            time.sleep(0.06)  # the bar moves ten times a second
            show(step + 1, 4)
    assert "1/2" in stream.getvalue() and "it/s" in stream.getvalue() and "<" in stream.getvalue()


def test_a_picture_on_a_terminal(terminal, tmp_path):
    stream = terminal()
    assert main(["a cat", "--steps", "3", "--seed", "7", "-o", str(tmp_path / "a.png")]) == 0
    assert "\r" in stream.getvalue() and "1/1: seed 7, 256x256, 3 steps" in stream.getvalue()


def test_none_when_quiet_or_elsewhere(terminal, monkeypatch):
    stream = terminal()
    with bar("x", quiet=True) as show:
        assert show is None
    for other in (None, io.StringIO()):
        monkeypatch.setattr(sys, "stderr", other)
        with bar("x", quiet=False) as show:
            assert show is None
    assert stream.getvalue() == ""


def test_a_terminal_that_is_closed_meanwhile(terminal):
    stream = terminal()
    with bar("x", quiet=False) as show:
        assert show is not None
        show(1, 2)
        stream.close()
        show(2, 2)


def test_lines_of_a_batch_of_which_nothing_is_drawn(monkeypatch, capsys):
    now = iter([0.0, 31.0, 62.0])
    monkeypatch.setattr(paces.time, "monotonic", lambda: next(now))
    pace = paces.Pace(8, None, in_lines=True)
    for rows in (0, 0, 4):  # another run has these shards
        pace.add(rows)
    assert capsys.readouterr().err.splitlines() == ["0/8: 0 pictures/s", "4/8: 0.0645 pictures/s, 1 min 02 s left"]
