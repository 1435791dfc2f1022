"""A batch drawn by several processes: the same files as by one, and no process is left behind."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from batch_made import broken, contents, faulty, killed, loudly, noting, plain, some_rows

from sana_core.batch import Batch, Done, Failed, Output, draw_batch
from sana_core.batch.in_processes import Process, draw_in_processes
from sana_core.errors import CheckpointError, InputError


def batch(folder, count=10):
    return Batch(rows=some_rows(count), output=Output(folder=folder, table=False), rows_per_shard=2)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_two_draw_what_one_draws(tmp_path):
    (tmp_path / "who").mkdir()
    list(draw_batch(batch(tmp_path / "one"), plain))
    rows = []
    loads = [partial(noting, tmp_path / "who")] * 2
    done = list(draw_in_processes(batch(tmp_path / "two"), loads, rows.append))
    assert contents(tmp_path / "two") == contents(tmp_path / "one") and len(contents(tmp_path / "two")) == 6
    assert done == [Done(2)] * 5 and sum(rows) == 10
    pids = [int(path.name) for path in (tmp_path / "who").iterdir()]
    assert len(pids) == 2 and os.getpid() not in pids and not any(map(alive, pids))


def test_what_the_processes_log_and_rows_that_fail_are_told_of(tmp_path, caplog):
    told = []
    with caplog.at_level("INFO", logger="sana"):
        done = list(draw_in_processes(batch(tmp_path, 4), [loudly] * 2, told.append))
    assert done == [Done(1, 1)] * 2 and sum(item for item in told if isinstance(item, int)) == 2
    assert sorted(item.row.id for item in told if isinstance(item, Failed)) == ["000002", "000004"]
    assert sorted(caplog.messages) == ["a word of 000001", "a word of 000003"]


def test_nothing_is_started_where_nothing_is_missing(tmp_path):
    list(draw_batch(batch(tmp_path), plain))
    assert list(draw_in_processes(batch(tmp_path), [broken] * 2)) == []


def test_what_cannot_be_loaded_leaves_the_folder_free(tmp_path):
    with pytest.raises(CheckpointError, match="there is no such model"):
        list(draw_in_processes(batch(tmp_path), [broken, broken]))
    assert contents(tmp_path) == {}


def test_a_fault_of_ours_shows_its_trace(tmp_path, capfd):
    with pytest.raises(KeyError, match="a fault of ours"):
        list(draw_in_processes(batch(tmp_path), [faulty]))
    assert "in faulty" in capfd.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9")
def test_a_killed_process_is_told_of_and_the_rest_can_be_drawn(tmp_path):
    with pytest.raises(InputError, match=r"ended with code -9, perhaps for want of memory: take fewer --workers"):
        list(draw_in_processes(batch(tmp_path), [plain, killed]))
    list(draw_batch(batch(tmp_path), plain))
    assert len(contents(tmp_path)) == 6


def test_an_interrupted_run_leaves_no_process_and_no_unfinished_file(tmp_path):
    (tmp_path / "who").mkdir()
    out = tmp_path / "out"
    drawing = draw_in_processes(batch(out, 100), [partial(noting, tmp_path / "who")] * 2)
    next(drawing)
    drawing.close()
    assert not any(alive(int(path.name)) for path in (tmp_path / "who").iterdir())
    assert not [name for name in contents(out) if name.startswith(".")] and len(contents(out)) < 50


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C of Unix")
def test_ctrl_c_leaves_a_process_that_still_imports(tmp_path):
    work = batch(tmp_path, 2)
    (shard,) = work.prepared()
    process = Process(work.worker(plain), 1)
    os.kill(process.process.pid, signal.SIGINT)
    process.pipe.send(shard)
    assert [process.said() for _ in range(3)] == [1, 1, Done(2)]
    process.end()


ALONE = """
import sys
from functools import partial
from pathlib import Path
from batch_made import noting, some_rows
from sana_core.batch import Batch, Output
from sana_core.batch.in_processes import draw_in_processes

if __name__ == "__main__":
    here = Path(sys.argv[1])
    batch = Batch(rows=some_rows(1000), output=Output(folder=here / "out", table=False), rows_per_shard=500)
    list(draw_in_processes(batch, [partial(noting, here / "who")] * 2))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9")
def test_the_processes_of_a_killed_run_end_quietly(tmp_path):
    (tmp_path / "who").mkdir()
    (tmp_path / "alone.py").write_text(ALONE)
    roots = os.pathsep.join(str(Path(__file__).parents[up]) for up in (2, 3))
    first = subprocess.Popen(
        [sys.executable, tmp_path / "alone.py", tmp_path],
        env={**os.environ, "PYTHONPATH": roots},
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 60
    while len(pids := list((tmp_path / "who").iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    first.kill()
    _, said = first.communicate(timeout=60)  # stderr ends with the last process
    assert len(pids) == 2 and said == b""
    assert [name for name in contents(tmp_path / "out")] == ["batch.json"]
