"""A message of an error is one line, short, and safe to print, whatever it repeats of a file."""

import pickle

import pytest

from sana_core.errors import CheckpointError, InputError, SanaError, listed, printable, shortened


@pytest.mark.parametrize(
    "hostile",
    [
        "\x1b[31mred\x1b]0;title\x07",
        "two\nlines\r\n\tand a tab",
        "\u202egpj.exe",
        "\u2028line",
        "\x00null",
        "\udcff byte",
        "\x9b1m",
    ],
)
def test_control_characters_are_written_out(hostile):
    for kind in (SanaError, CheckpointError, InputError):
        said = str(kind(f"file {hostile}: it is wrong"))
        assert said.isprintable() and said.startswith("file ") and said.endswith(": it is wrong")
        said.encode()


def test_letters_of_all_languages_stay():
    said = "\u6a21\u578b\u3000\u00e9\U0001f98a.safetensors"
    assert str(CheckpointError(said)) == said


@pytest.mark.parametrize("length", [10, 999, 1000, 5000, 50_000_000])
def test_a_message_stays_under_a_thousand_characters(length):
    said = str(CheckpointError(f"begin {'x' * length} end"))
    assert len(said) < 1000 and said.startswith("begin x") and said.endswith("x end")
    assert len(str(CheckpointError("\x1b" * length))) < 1000


def test_an_error_survives_pickling():
    error = CheckpointError(f"a\nb {'x' * 5000}")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_lists_of_names():
    assert listed(["a", "b"]) == "a, b"
    assert listed([str(number) for number in range(10)]) == "0, 1, 2, 3, 4, 5 and 4 more"
    assert listed(list("abc"), 2) == "a, b and 1 more"
    assert len(listed(["k" * 10_000] * 9)) < 1000
    assert shortened("short") == "short" and printable("plain") == "plain"
