"""A batch on a Ray cluster of this machine, one worker of which is killed."""

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from batch_made import contents, draw, some_rows

from sana_core.batch import Batch, Done, Output
from sana_core.batch.on_ray import RayWorker, draw_on_ray
from sana_core.errors import CheckpointError, InputError

ROOT = Path(__file__).parents[3]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def command(prompts, folder, *options):
    settings = "--size 64 --steps 8 --rows-per-shard 4 --batch 2 --table none --device cpu"
    return [sys.executable, "-m", "sana_core", "batch", str(prompts), str(folder), *settings.split(), *options]


def workers(driver):
    """Processes of Ray Data's workers below a process, oldest first."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    parents, names = {}, {}
    for line in listed.splitlines():
        pid, parent, name = line.split(None, 2)
        parents[int(pid)], names[int(pid)] = int(parent), name

    def below(pid):
        while pid in parents and pid != driver:
            pid = parents[pid]
        return pid == driver

    return [pid for pid, name in names.items() if "MapWorker" in name and below(pid)]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="workers are found by ps")
def test_a_lost_worker_is_replaced(tmp_path):
    pytest.importorskip("ray", reason='Ray is needed: pip install "ray[data]"')
    prompts = tmp_path / "p.txt"
    prompts.write_text("\n".join(f"a cat, number {number}" for number in range(32)))
    subprocess.run(command(prompts, tmp_path / "plain"), cwd=ROOT, env=ENVIRONMENT, check=True, timeout=300)
    folder = tmp_path / "ray"
    options = ("--ray", "--ray-workers", "2", "--quiet")
    driver = subprocess.Popen(command(prompts, folder, *options), cwd=ROOT, env=ENVIRONMENT)
    try:
        deadline, killed = time.monotonic() + 240, []
        while driver.poll() is None and time.monotonic() < deadline:
            if not killed and len(list(folder.glob("*.tar"))) >= 2 and len(found := workers(driver.pid)) == 2:
                os.kill(found[0], signal.SIGKILL)
                killed = found
            time.sleep(0.02)
        assert driver.wait(timeout=60) == 0 and len(killed) == 2
    finally:
        driver.kill()
    assert contents(folder) == contents(tmp_path / "plain") and len(contents(folder)) == 9


def test_a_worker_tells_what_went_wrong(tmp_path, monkeypatch):
    """Ray would show pages of tracebacks, and try again for ever."""
    monkeypatch.chdir(tmp_path)  # and back at the end
    batch = Batch(rows=some_rows(3), output=Output(folder=tmp_path, table=False))
    shard = {"shard": [pickle.dumps(batch.shards[0])]}

    def missing():
        raise CheckpointError("there is no such model")

    def done(load, folder):
        (said,), (error,) = RayWorker(batch.worker(load), str(folder), torch.get_num_threads())(shard).values()
        return Done(*pickle.loads(said)), error

    assert done(missing, tmp_path) == (Done(), "there is no such model")
    assert "all machines need the same folders" in done(missing, tmp_path / "none")[1]
    assert not (tmp_path / "batch.json").exists()
    assert done(lambda: draw, tmp_path) == (Done(3), "")


def test_without_ray(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    batch = Batch(rows=some_rows(1), output=Output(folder=tmp_path / "out", table=False))
    with pytest.raises(InputError, match=r"Ray is not installed .*pip install \"ray\[data\]\""):
        next(draw_on_ray(batch, None))
    with pytest.raises(InputError, match="0 Ray workers, expected at least 1"):
        next(draw_on_ray(batch, None, workers=0))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_signal_ends_the_run(tmp_path):
    pytest.importorskip("ray", reason='Ray is needed: pip install "ray[data]"')
    prompts, folder = tmp_path / "p.txt", tmp_path / "ray"
    prompts.write_text("\n".join(f"a cat, number {number}" for number in range(64)))
    driver = subprocess.Popen(command(prompts, folder, "--ray"), cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 240
        while not list(folder.glob("*.tar")) and driver.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        driver.send_signal(signal.SIGTERM)
        _, said = driver.communicate(timeout=60)
        assert driver.returncode == 128 + signal.SIGTERM and b"Traceback" not in said
    finally:
        driver.kill()
    subprocess.run(command(prompts, folder), cwd=ROOT, env=ENVIRONMENT, check=True, timeout=300)
    assert len(list(folder.glob("*.tar"))) == 16 and not list(folder.glob(".*.partial"))


@pytest.mark.parametrize("address", ["no such address", "127.0.0.1:1", "ray://127.0.0.1:1"])
def test_a_cluster_that_is_not_there(tmp_path, address):
    """It leaves the folder to other settings, and signals as they were."""
    pytest.importorskip("ray.data", reason='pip install "ray[data]"')
    before = signal.getsignal(signal.SIGTERM)
    batch = Batch(rows=some_rows(1), output=Output(folder=tmp_path / "out"))
    with pytest.raises(InputError, match=f"no Ray cluster at {address}"):
        list(draw_on_ray(batch, None, address))  # pyright: ignore[reportArgumentType]
    assert not (tmp_path / "out" / "batch.json").exists()
    assert signal.getsignal(signal.SIGTERM) == before
