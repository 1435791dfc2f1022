"""Folders with a metadata.jsonl."""

import json

import pytest
from PIL import Image

from sana_core.errors import InputError
from sana_core.training.data.read import read_data


def write(folder, *rows, pictures=("a.png",)):
    for name in pictures:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), "red").save(folder / name)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


NO_ROW = "it has no row in metadata.jsonl"


def reason(folder, row):
    data = read_data(write(folder, row, {"file_name": "good.png", "text": "x"}, pictures=("a.png", "good.png")))
    (why,) = [why for _, why in data.skipped if why != NO_ROW]
    return why


@pytest.mark.parametrize("key", ["text", "caption", "prompt"])
def test_a_row_for_each_picture(tmp_path, key):
    rows = [{"file_name": "in/b.png", key: "a bee"}, "", {"file_name": "a.png", key: "an apple"}]
    data = read_data(write(tmp_path, *rows, pictures=("a.png", "in/b.png", "unlisted.png")))
    assert [(example.name, example.captions) for example in data.examples] == [
        ("a.png", (("an apple", 1.0),)), ("in/b.png", (("a bee", 1.0),)),
    ]  # fmt: skip
    assert data.skipped == (("unlisted.png", NO_ROW),)


def test_captions_with_weights(tmp_path):
    data = read_data(write(tmp_path, {"file_name": "a.png", "captions": ["x", "y"], "weights": [0.75, 0.25]}))
    assert data.examples[0].captions == (("x", 0.75), ("y", 0.25))


def test_a_condition_picture(tmp_path):
    rows = {"file_name": "a.png", "text": "x", "conditioning_image": "edges/a.png"}
    data = read_data(write(tmp_path, rows, pictures=("a.png", "edges/a.png")))
    assert len(data.examples) == 1 and data.examples[0].load_condition().size == (32, 32)


def test_a_file_of_geneval_is_no_table(tmp_path):
    folder = write(tmp_path, {"tag": "two_object", "include": [], "prompt": "x"}, pictures=("samples/0000.png",))
    data = read_data(folder, caption="y")
    assert [example.name for example in data.examples] == ["samples/0000.png"] and data.skipped == ()


def test_tables_in_folders_below(tmp_path):
    write(tmp_path / "train", {"file_name": "a.png", "text": "x"})
    write(tmp_path / "more", {"file_name": "a.png"})
    data = read_data(tmp_path, caption="y")
    assert [(e.name, e.captions[0][0]) for e in data.examples] == [("more/a.png", "y"), ("train/a.png", "x")]


@pytest.mark.parametrize(
    "row, words",
    [
        ({"file_name": "nowhere.png", "text": "x"}, "missing"),
        ({"file_name": "../a.png", "text": "x"}, "outside"),
        ({"file_name": "in/../../a.png", "text": "x"}, "outside"),
        ({"file_name": "in\\..\\..\\a.png", "text": "x"}, "outside"),
        ({"file_name": "/etc/passwd", "text": "x"}, "outside"),
        ({"file_name": "C:\\a.png", "text": "x"}, "outside"),
        ({"file_name": "x" * 5000, "text": "x"}, "missing"),
        ({"file_name": "\0", "text": "x"}, "missing"),
        ({"file_name": 3, "text": "x"}, "no file name"),
        ({"text": "x"}, "no file name"),
        ({"file_name": "a.png", "text": ["x", 1]}, "a number, expected a text"),
        ({"file_name": "a.png"}, "no caption"),
        ({"file_name": "a.png", "text": "x", "conditioning_image": "../a.png"}, "outside"),
        ({"file_name": "good.png", "text": "again"}, "has a row already"),
        ("[1]", "no JSON object"),
        ("{", "JSON cannot be read"),
        ("\udcff", "JSON cannot be read"),
    ],
)
def test_rows_that_cannot_be_used(tmp_path, row, words):
    if row == "\udcff":
        write(tmp_path, {"file_name": "good.png", "text": "x"}, pictures=("good.png",))
        with (tmp_path / "metadata.jsonl").open("ab") as file:
            file.write(b"\n\xff\n")
        ((_, why),) = read_data(tmp_path).skipped
    else:
        why = reason(tmp_path, row)
    assert words in why


def test_no_row_that_can_be_used(tmp_path):
    with pytest.raises(InputError, match=r"metadata.jsonl, line 1: its JSON"):
        read_data(write(tmp_path, "{"))
