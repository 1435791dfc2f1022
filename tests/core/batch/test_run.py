"""A folder of pictures: written whole or not at all, resumed, shared, and never of other settings."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from batch_made import contents, draw, drawn, members, pixels, rows, some_rows

from sana_core.batch import Batch, Done, Failed, Output, draw_batch, read_rows
from sana_core.batch.claim import locked
from sana_core.errors import InputError

parquet = pytest.importorskip("pyarrow.parquet", reason="tables need it: pip install pyarrow")
ROOT = Path(__file__).parents[3]


def batch(folder, count=10, **settings):
    names = {"format", "plain", "table", "quality"} & set(settings)
    output = Output(folder=folder, **{name: settings.pop(name) for name in names})
    return Batch(rows=some_rows(count), output=output, rows_per_shard=settings.pop("rows_per_shard", 4), **settings)


def run(made, drawer=draw):
    return list(draw_batch(made, lambda: drawer))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    assert sum(done.drawn for done in run(batch(folder))) == 10
    return contents(folder)


def test_tars_and_tables(whole, tmp_path):
    run(batch(tmp_path))
    assert sorted(whole) == sorted([*(f"0000{n}.{end}" for n in range(3) for end in ("tar", "parquet")), "batch.json"])
    found = members(tmp_path / "00001.tar")
    assert list(found)[:3] == ["000005.png", "000005.txt", "000005.json"] and len(found) == 12
    assert found["000005.txt"] == b"prompt 4" and json.loads(found["000005.json"])["id"] == "000005"
    table = parquet.read_table(tmp_path / "00001.parquet").to_pylist()
    assert [row["key"] for row in table] == ["000005", "000006", "000007", "000008"]
    assert table[0] == {"key": "000005", **json.loads(found["000005.json"])}


def test_webdataset_reads_the_tars(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    run(batch(tmp_path))
    url = str(tmp_path / "{00000..00002}.tar")
    found = list(webdataset.WebDataset(url, shardshuffle=False).decode("pil"))
    assert [item["__key__"] for item in found] == [f"{number:06d}" for number in range(1, 11)]
    assert found[3]["txt"] == "prompt 3" and found[3]["png"].size == (8, 8)
    assert found[3]["json"]["seed"] == some_rows(4)[3].request.seed


@pytest.mark.parametrize("ending", ["webp", "jpg"])
def test_other_formats(tmp_path, ending):
    run(batch(tmp_path, format=ending, quality=80, table=False))
    assert not list(tmp_path.glob("*.parquet"))
    assert sum(name.endswith(f".{ending}") for name in members(tmp_path / "00000.tar")) == 4


def test_shares_draw_everything_once_and_the_same(whole, tmp_path):
    for index in (2, 0, 1, 3):
        run(batch(tmp_path, share=(index, 4)))
    assert contents(tmp_path) == whole


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_interrupted_twice_and_resumed(whole, tmp_path, error):
    asked = []

    def interrupted(rows):
        for row in rows:
            asked.append(row.id)
            if len(asked) in (6, 12):
                raise error
            yield drawn(row)

    for _ in range(2):
        with pytest.raises(error):
            run(batch(tmp_path), interrupted)
        assert not [name for name in contents(tmp_path) if name.startswith(".")]
    done = run(batch(tmp_path), interrupted)
    assert contents(tmp_path) == whole and sum(item.drawn for item in done) < 10
    assert run(batch(tmp_path), None) == []  # nothing is loaded where nothing is missing


SCRIPT = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from core.batch.test_run import batch, drawn, run

def slow(rows):
    for row in rows:
        time.sleep(0.05)
        yield drawn(row)

run(batch(Path({folder!r})), slow)
"""


def test_killed_and_resumed(whole, tmp_path):
    script = SCRIPT.format(tests=str(ROOT / "tests"), folder=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    deadline = time.monotonic() + 60
    while not (tmp_path / "00000.tar").exists() or not list(tmp_path.glob(".00001.tar.*.partial")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(tmp_path.glob(".*.partial")) and not (tmp_path / "00001.tar").exists()
    before = (tmp_path / "00000.tar").stat().st_mtime_ns
    assert sum(item.drawn for item in run(batch(tmp_path))) == 6
    assert contents(tmp_path) == whole and (tmp_path / "00000.tar").stat().st_mtime_ns == before


def test_plain_files(tmp_path):
    made = Batch(
        rows=rows({"id": "a", "prompt": "x", "file": "s/0.a"}, {"id": "b/c", "prompt": "y"}),
        output=Output(folder=tmp_path, plain=True),
    )
    run(made)
    assert sorted(contents(tmp_path)) == ["b/c.json", "b/c.png", "batch.json", "s/0.a.json", "s/0.a.png"]
    (tmp_path / "b" / "c.png").unlink()
    (tmp_path / "b" / ".c.json.0123.partial").write_bytes(b"left by a kill")
    again = []
    run(made, lambda rows: (drawn(row) for row in again.__iadd__([row.id for row in rows]) and rows))
    assert again == ["b/c"] and len(contents(tmp_path)) == 5


def test_rows_that_fail_can_be_drawn_again(whole, tmp_path):
    def failing(rows):
        for row in rows:
            yield Failed(row, "it rained") if row.id in ("000006", "000002", "000008") else drawn(row)

    done = run(batch(tmp_path / "out"), failing)
    assert done == [Done(3, 1), Done(2, 2), Done(2)]
    files = sorted((tmp_path / "out").glob("failed-*.jsonl"))
    assert [path.name for path in files] == ["failed-00000.jsonl", "failed-00001.jsonl"]
    lines = [json.loads(line) for line in files[1].read_text().splitlines()]
    assert [(line["id"], line["reason"]) for line in lines] == [("000006", "it rained"), ("000008", "it rained")]
    again = Batch(rows=read_rows(files[1], seed=5), output=Output(folder=tmp_path / "again"))
    run(again)
    found = members(tmp_path / "again" / "00000.tar")
    (tmp_path / "00001.tar").write_bytes(whole["00001.tar"])
    expected = members(tmp_path / "00001.tar")
    assert {name: found[name] for name in found} == {name: expected[name] for name in found} and len(found) == 6


def test_rows_that_failed_are_not_there(tmp_path):
    made = batch(tmp_path)
    run(made, lambda rows: (Failed(row, "it rained") if row.id == "000006" else drawn(row) for row in rows))
    assert made.state() == (3, 10, 9, 1)


def test_what_cannot_be_loaded_leaves_the_folder_free(tmp_path):
    def broken():
        raise InputError("no such scorer")

    with pytest.raises(InputError, match="no such scorer"):
        list(draw_batch(batch(tmp_path), broken))
    assert sum(done.drawn for done in run(batch(tmp_path, settings={"steps": 3}))) == 10


def test_the_best_pictures_of_a_row_are_one_row(tmp_path):
    made = Batch(rows=some_rows(1), output=Output(folder=tmp_path))
    (done,) = run(made, lambda rows: iter([drawn(rows[0])._replace(end="-best2"), drawn(rows[0])]))
    assert done.drawn == 1 and len(members(tmp_path / "00000.tar")) == 6


def test_plain_files_that_failed_are_tried_again(tmp_path):
    made = Batch(rows=some_rows(2), output=Output(folder=tmp_path, plain=True))
    run(made, lambda rows: iter([Failed(rows[0], "it rained"), drawn(rows[1])]))
    assert (tmp_path / "failed-00000.jsonl").exists() and not (tmp_path / "000001.png").exists()
    assert run(made) == [Done(1)]
    assert not (tmp_path / "failed-00000.jsonl").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"count": 9}, "a batch with rows 10, this one has 9"),
        ({"rows_per_shard": 5}, "rows_per_shard 4, this one has 5"),
        ({"format": "webp"}, 'format "png", this one has "webp"'),
        ({"plain": True}, "plain false, this one has true"),
        ({"table": False}, 'table "parquet", this one has "none"'),
        ({"settings": {"steps": 3}}, "steps null, this one has 3"),
    ],
)
def test_other_settings_are_refused(whole, tmp_path, changes, said):
    (tmp_path / "batch.json").write_bytes(whole["batch.json"])
    with pytest.raises(InputError, match=said):
        run(batch(tmp_path, **changes), None)
    assert contents(tmp_path) == {"batch.json": whole["batch.json"]}


def test_other_rows_are_refused(tmp_path):
    output = Output(folder=tmp_path)
    run(Batch(rows=rows("a cat", "a dog"), output=output))
    with pytest.raises(InputError, match="a batch of other rows"):
        run(Batch(rows=rows("a cat", "a bird"), output=output))


def test_a_damaged_record(tmp_path):
    for text in ("{", "[]"):
        (tmp_path / "batch.json").write_text(text)
        with pytest.raises(InputError, match="is not the record of a batch"):
            run(batch(tmp_path))


def test_a_shard_that_another_run_draws_is_left_to_it(whole, tmp_path):
    made = batch(tmp_path)
    made.make_folder()
    with locked(tmp_path, "00001") as mine:
        assert mine and [item.busy for item in run(made)] == [False, True, False]
    run(made)
    assert contents(tmp_path) == whole


@pytest.mark.parametrize("name", ["000002.png", "000002.json", "failed-00001.jsonl"])
def test_a_picture_of_something_else_is_not_taken_for_one_of_the_batch(tmp_path, name):
    (tmp_path / name).write_bytes(b"another")
    with pytest.raises(InputError, match=rf"{name} is there, but no batch.json .*name another folder"):
        run(batch(tmp_path, plain=True), None)
    assert contents(tmp_path) == {name: b"another"}


@pytest.mark.parametrize("name", ["00001.tar", "00001.parquet", "failed-00001.jsonl"])
def test_a_file_of_something_else_beside_tars(tmp_path, name):
    """Such as the prompt file itself."""
    (tmp_path / name).write_bytes(b"another")
    with pytest.raises(InputError, match=rf"{name} is there, but no batch.json"):
        run(batch(tmp_path), None)
    assert contents(tmp_path) == {name: b"another"}


def test_rows_without_a_score_are_counted(tmp_path):
    def scored(rows):
        for row in rows:
            item = drawn(row)
            score = None if row.id in ("000002", "000007") else 0.5
            yield item._replace(record={**item.record, "score": score}, end="-best2")
            yield item._replace(record={**item.record, "score": score})

    assert run(batch(tmp_path), scored) == [Done(4, 0, 1), Done(4, 0, 1), Done(2)]


def test_a_full_disk(whole, tmp_path, monkeypatch):
    calls = []

    def full(handle):
        calls.append(handle)
        if len(calls) == 5:  # the tar of the second shard; each takes a table, a tar and its folder
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(InputError, match="no space is left on its disk: free some and start again"):
            run(batch(tmp_path))
    assert [name for name in contents(tmp_path) if name.endswith(("tar", "partial"))] == ["00000.tar"]
    run(batch(tmp_path))
    assert contents(tmp_path) == whole


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(InputError, match=r"file.* cannot be written .*make it writable, or name another folder"):
            run(batch(folder))


def test_no_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"--table none goes without.*pip install pyarrow"):
        run(batch(tmp_path / "out"), None)
    assert not (tmp_path / "out").exists()


def test_seeds_that_have_no_common_type(tmp_path):
    made = rows({"prompt": "x", "seed": -1}, {"prompt": "y", "seed": 2**64 - 1})
    run(Batch(rows=made, output=Output(folder=tmp_path)))
    assert parquet.read_table(tmp_path / "00000.parquet")["seed"].to_pylist() == ["-1", str(2**64 - 1)]


def test_the_pictures_are_those_that_were_drawn(whole, tmp_path):
    (tmp_path / "a.tar").write_bytes(whole["00002.tar"])
    row = some_rows(10)[8]
    assert pixels(members(tmp_path / "a.tar")[f"{row.id}.png"]) == drawn(row).picture.tobytes()
