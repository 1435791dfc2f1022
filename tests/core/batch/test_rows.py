"""Prompt files of every kind, and what is wrong with them."""

import json
import sys

import pytest
from batch_made import rows

from sana_core.batch import read_rows
from sana_core.errors import InputError
from sana_core.pipeline import Request
from sana_core.seeds import derived_seed

pyarrow = pytest.importorskip("pyarrow", reason="tables need it: pip install pyarrow")
TABLE = [
    {"id": "one", "prompt": "a cat, grey", "seed": 5, "steps": 3, "guidance_scale": 2.5, "sampler": None},
    {"id": "two/2", "prompt": "a \u732b", "seed": None, "steps": None, "guidance_scale": None, "sampler": "flow_euler"},
]
SEED = derived_seed(9, "two/2")
EXPECTED = [
    ("one", Request("a cat, grey", seed=5, steps=3, guidance_scale=2.5, width=64)),
    ("two/2", Request("a \u732b", seed=SEED, sampler="flow_euler", width=64)),
]


def csv_text():
    cells = [
        [json.dumps(value, ensure_ascii=False) if value is not None else "" for value in row.values()] for row in TABLE
    ]
    return "\n".join(",".join(line) for line in [list(TABLE[0]), *cells])


def write(tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(text.encode())
    return path


def test_every_kind_of_file_gives_the_same_rows(tmp_path):
    files = [
        write(tmp_path, "p.json", json.dumps(TABLE)),
        write(tmp_path, "p.jsonl", "\n".join(map(json.dumps, TABLE))),
        write(tmp_path, "p.csv", csv_text()),
        write(tmp_path, "crlf.CSV", "\ufeff" + csv_text().replace("\n", "\r\n") + "\r\n\r\n"),
        tmp_path / "p.parquet",
    ]
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(TABLE), files[-1])
    for path in files:
        found = read_rows(path, Request("", width=64), seed=9)
        assert [(row.id, row.request) for row in found] == EXPECTED, path
        assert [row.file for row in found] == ["one", "two/2"]


def test_ids_are_the_numbers_of_the_lines(tmp_path):
    found = read_rows(write(tmp_path, "p.txt", "a cat\n\na dog\n"))
    assert [(row.id, row.request.prompt, row.request.seed) for row in found] == [
        ("000001", "a cat", derived_seed(0, "000001")),
        ("000003", "a dog", derived_seed(0, "000003")),
    ]


def test_columns_of_other_names(tmp_path):
    path = write(tmp_path, "p.csv", "key,caption\n7,a cat\nb,a dog\n")
    found = read_rows(path, id_column="key", prompt_column="caption")
    assert [(row.id, row.request.prompt) for row in found] == [("7", "a cat"), ("b", "a dog")]
    with pytest.raises(InputError, match='unknown column "key"'):
        read_rows(path, prompt_column="caption")


def test_a_setting_can_be_the_column_of_ids(tmp_path):
    assert read_rows(write(tmp_path, "p.csv", "file,prompt\na,x\n"), id_column="file")[0].id == "a"
    with pytest.raises(InputError, match='has no column "key"'):
        read_rows(write(tmp_path, "p.csv", "prompt\nx\n"), id_column="key")
    with pytest.raises(InputError, match="cannot hold both"):
        read_rows(write(tmp_path, "p.csv", "prompt\nx\n"), id_column="prompt")


def test_whole_numbers_as_ids():
    assert [row.id for row in rows({"id": 3, "prompt": "x"}, {"id": 4.0, "prompt": "y"})] == ["3", "4"]


def test_several_pictures_of_a_row():
    found = rows({"id": "a", "prompt": "x", "batch_size": 3, "file": "b/c.d"}, {"id": "e", "prompt": "y"})
    assert [(row.id, row.file) for row in found] == [
        ("a-0001", "b/c.d-0001"),
        ("a-0002", "b/c.d-0002"),
        ("a-0003", "b/c.d-0003"),
        ("e", "e"),
    ]
    assert len({row.request.seed for row in found}) == 4 and {row.request.batch_size for row in found} == {1}
    given = rows({"id": "a", "prompt": "x", "batch_size": 2, "seed": 5})
    assert [row.request.seed for row in given] == [5, derived_seed(5, 2)]


def test_a_row_can_be_written_down_and_read_again(tmp_path):
    common = Request("", negative_prompt="n", instruction=None, pag_scale=2, pag_layers=(1,), width=64)
    given = rows({"prompt": "x", "image": "a.png", "strength": 0.5, "file": "f"}, "y", common=common)
    lines = "\n".join(json.dumps({**row.entry(), "reason": "it rained"}) for row in given)
    again = read_rows(write(tmp_path, "failed.jsonl", lines), seed=123)
    assert [(row.id, row.request, row.file) for row in again] == [(row.id, row.request, row.file) for row in given]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("p.txt", "\n", "holds no prompt"),
        ("p.csv", "id,prompt\n", "holds no prompt"),
        ("p.csv", "", "holds no prompt"),
        ("p.csv", "id,prompt\na,x\na,y\n", "line 3: its id .a. is that of .*line 2, too"),
        ("p.csv", "id,prompt,cfg\na,x,1\n", 'line 2: unknown column "cfg", expected id, prompt'),
        ("p.csv", "id,prompt,cfg\na,x,\n", 'unknown column "cfg"'),
        ("p.csv", "id,prompt\na,x,y\n", "line 2: 3 cells for 2 columns"),
        ("p.csv", 'id,prompt\na,"x\n', "this is no CSV"),
        ("p.csv", "prompt,prompt\nx,y\n", 'two columns "prompt"'),
        ("p.csv", "prompt,steps\nx,many\n", 'line 2: steps is "many", expected a whole number'),
        ("p.csv", "prompt,steps\nx,1.5\n", "steps is 1.5, expected a whole number"),
        ("p.csv", "prompt,shift\nx,nan\n", "shift is NaN, expected a finite number"),
        ("p.csv", "id,prompt\na,\n", "line 2 has no prompt"),
        ("p.csv", "prompt,width\nx,33\n", "line 2: width is 33 pixels"),
        ("p.csv", "prompt,seed\nx,99999999999999999999999\n", "line 2: the seed .* is out of range"),
        ("p.jsonl", '{"prompt": "x", "id": true}', "id is true, expected a text or a whole number"),
        ("p.jsonl", '{"prompt": "x", "id": "a"}\n"y"', "line 2 has no id, and other rows have one"),
        ("p.jsonl", '{"prompt": "x", "prompts": 1}', 'line 1: unknown column "prompts"'),
        ("p.jsonl", "3", "line 1: expected a text or an object, found 3"),
        ("p.jsonl", '{"prompt": "x", "file": "Batch"}', "the batch has a file of this name"),
        ("p.jsonl", '{"prompt": "x", "file": ".locks/a"}', "the batch has a file of this name"),
        ("p.jsonl", '{"prompt": "x", "file": "A"}\n{"prompt": "x", "file": "a"}', "its file .a. is that of"),
        ("p.jsonl", '{"prompt": "x", "file": "\u00c9"}\n{"prompt": "x", "file": "e\u0301"}', "its file .* is that of"),
        ("p.jsonl", '{"prompt": "x", "strength": 0.5}', "line 1: strength and mask say"),
        ("p.parquet", "PAR1 no such thing PAR1", r"p\.parquet cannot be read .*: expected a Parquet file"),
        ("p.parquet", "", "expected a Parquet file"),
        (
            "p.csv",
            "prompt,batch_size\nx,1000000000000000\n",
            "line 2: batch_size is 1000000000000000, expected at most",
        ),
        ("p.tsv", "x", r"one of \.txt, \.json, \.jsonl, \.csv, \.parquet"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, name, text, said):
    with pytest.raises(InputError, match=said):
        read_rows(write(tmp_path, name, text))


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/a",
        "a/",
        "a//b",
        "..",
        "a/../b",
        "./a",
        "a.b",
        "a\n",
        "a\\b",
        "c:a",
        " a",
        "a" * 201,
        "\x7f",
        "a ",
        "x./y",
        "nul",
        "x/COM1",
        "\u202ea",
        "a.PNG/b",
        "a.json/b",
    ],
)
def test_ids_that_are_no_keys(name):
    with pytest.raises(InputError, match=r"row 1: id .* cannot be the name of a picture"):
        rows({"id": name, "prompt": "x"})


@pytest.mark.parametrize("name", ["a/b", "a.b/c", "\u732b", "a b", "0"])
def test_ids_that_are_keys(name):
    assert rows({"id": name, "prompt": "x"})[0].id == name


def test_files_that_are_not_there(tmp_path):
    for name in ("p.csv", "p.parquet", "p.txt"):
        with pytest.raises(InputError, match="cannot be read"):
            read_rows(tmp_path / name)


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match="pip install pyarrow"):
        read_rows(write(tmp_path, "p.parquet", ""))


def test_a_table_is_read_without_threads(tmp_path, monkeypatch):
    """Those that pyarrow reads ahead with aborted the end of Python in one run of four."""
    parquet = pytest.importorskip("pyarrow.parquet", reason="tables need it: pip install pyarrow")
    path = tmp_path / "p.parquet"
    parquet.write_table(pytest.importorskip("pyarrow").table({"prompt": ["x"]}), path)
    asked, original = {}, parquet.ParquetFile
    monkeypatch.setattr(parquet, "ParquetFile", lambda file, **given: asked.update(given) or original(file, **given))
    assert read_rows(path)[0].request.prompt == "x" and asked == {"pre_buffer": False}


def test_columns_of_other_names_can_be_ignored():
    with pytest.raises(InputError, match=r"unknown column .*note.*--other-columns"):
        rows({"prompt": "a", "note": "x"})
    (row,) = rows({"prompt": "a", "note": "x"}, other_columns=True)
    assert row.request.prompt == "a"


@pytest.mark.parametrize("value", [{}, {"id": "x"}, {"prompt": None}])
def test_a_row_without_a_prompt(value):
    with pytest.raises(InputError, match="row 1 has no prompt: fill it in"):
        rows(value)


def test_an_unknown_sampler_is_known_before_a_model_is_loaded():
    with pytest.raises(InputError, match="row 1: there is no sampler 'euler'"):
        rows({"prompt": "a", "sampler": "euler"})
