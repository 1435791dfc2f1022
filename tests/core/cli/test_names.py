"""Where pictures are saved: nothing is lost, and nothing is drawn that cannot be saved."""

import logging
from pathlib import Path

import pytest
from PIL import Image

import sana_core.cli as cli
from sana_core.cli import main, names
from sana_core.cli.names import Output, output
from sana_core.errors import InputError

QUICK = ["--size", "32", "--steps", "1", "--seed", "1", "--device", "cpu", "--quiet"]
DEFAULT = Path("sana.png")
RECORD = {
    "prompt": "x", "negative_prompt": "", "steps": 1, "sampler": "s", "guidance_scale": 1, "seed": 1, "width": 1,
    "height": 1, "model": "m", "shift": 1, "batch_size": 1, "batch_index": 0,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def save(chosen):
    return chosen.save(Image.new("RGB", (1, 1)), RECORD).name


def test_a_named_picture_is_replaced_with_a_word(folder, caplog):
    Path("a.png").write_text("old")
    with caplog.at_level(logging.INFO, logger="sana"):
        assert save(output(Path("a.png"), DEFAULT, alone=True, count=1)) == "a.png"
    assert caplog.messages == ["a.png was there and is replaced"] and files(folder) == ["a.png"]
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="sana"):
        assert save(output(Path("b.png"), DEFAULT, alone=True, count=1)) == "b.png"
    assert not caplog.messages


def test_the_default_name_replaces_nothing(folder):
    found = [save(output(None, DEFAULT, alone=True, count=1)) for _ in range(3)]
    assert found == ["sana.png", "sana-0001.png", "sana-0002.png"]


def test_numbers_go_on_after_the_highest(folder):
    for name in ("a-0002.png", "a-0007.png", "a-12.png", "a-x.png", "b-0011.png", "a-0009.jpg", "xa-0020.png"):
        Path(name).write_text("old")
    chosen = output(Path("a.png"), DEFAULT, alone=False, count=2)
    assert [save(chosen), save(chosen)] == ["a-0008.png", "a-0009.png"]
    assert all(Path(name).read_text() == "old" for name in ("a-0002.png", "a-0007.png"))
    Path("c-9999.png").write_text("old")
    assert save(output(Path("c.png"), DEFAULT, alone=False, count=1)) == "c-10000.png"
    assert save(output(Path("c.png"), DEFAULT, alone=False, count=1)) == "c-10001.png"


def test_numbers_that_another_process_takes_meanwhile_are_left_out(folder):
    chosen, other = (output(Path("a.png"), DEFAULT, alone=False, count=2) for _ in range(2))
    assert [save(chosen), save(other), save(chosen)] == ["a-0001.png", "a-0002.png", "a-0003.png"]


def test_nothing_is_left_of_a_picture_that_could_not_be_written(folder, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(names, "save_png", full)
    with pytest.raises(OSError, match="No space"):
        save(Output(Path("a.png"), 1))
    assert files(folder) == []


@pytest.mark.parametrize("stem", ["a" * 251, "a" * 250, "\u732b" * 83], ids=len)
def test_names_that_get_too_long_with_their_number(folder, stem):
    path = Path(f"{stem}.png")
    with pytest.raises(InputError, match=r"cannot be written \(File name too long\): name with --output"):
        output(path, DEFAULT, alone=False, count=2)
    if len(path.name.encode()) <= 255:
        output(path, DEFAULT, alone=True, count=1)
    with pytest.raises(InputError, match="too long"):  # in a folder that is still to be made
        output("new" / path, DEFAULT, alone=False, count=2)
    with pytest.raises(InputError, match="too long"):
        output(Path("b" * 300) / "x.png", DEFAULT, alone=False, count=2)
    assert files(folder) == []


def test_the_last_number_counts(folder):
    path = Path("a" * 246 + ".png")  # -9999 fits, -10000 does not
    output(path, DEFAULT, alone=False, count=9999)
    with pytest.raises(InputError, match="too long"):
        output(path, DEFAULT, alone=False, count=10000)


def test_a_long_name_is_refused_before_anything_is_drawn(folder, monkeypatch, capsys):
    drawn, real = [], cli._draw
    monkeypatch.setattr(cli, "_draw", lambda *a: drawn.append(1) or real(*a))
    assert main(["a cat", "--batch", "2", "-o", "a" * 250 + ".png", *QUICK]) == 2
    assert "--output" in capsys.readouterr().err and not drawn and files(folder) == []
    assert main(["a cat", "--batch", "2", "-o", "a.png", *QUICK]) == 0
    assert drawn == [1] and files(folder) == ["a-0001.png", "a-0002.png"]


def test_batches_in_a_prompt_file_are_numbered_on(folder):
    Path("p.jsonl").write_text('"a"\n{"prompt": "b", "batch_size": 2}\n')
    for _ in range(2):
        assert main(["--prompt-file", "p.jsonl", "-o", "x.png", *QUICK]) == 0
    assert files(folder) == ["p.jsonl", *(f"x-000{number}.png" for number in range(1, 7))]
