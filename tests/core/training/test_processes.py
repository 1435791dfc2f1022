"""Several processes, kills and resumes end with the weights of one process that was never killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

pytest.importorskip("accelerate", reason="several processes need accelerate: pip install accelerate")
PROGRAM = Path(__file__).with_name("run_tiny.py")
ROOT = PROGRAM.parents[3]
CLOSE = {"atol": 1e-4, "rtol": 1e-4}


def start(folder, *options, processes=1):
    launch = [] if processes == 1 else ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return subprocess.run(
        [sys.executable, *launch, str(PROGRAM), str(folder), *options],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def trained(folder, *options, processes=1):
    """The tensors that a training writes."""
    ended = start(folder, *options, processes=processes)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return load_file(folder / "out.safetensors")


def assert_same(found, wanted):
    import torch

    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, **CLOSE, msg=lambda text, name=name: f"{name}: {text}")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """By one process that was never killed, of each kind."""
    made = {}

    def of(kind, optimizer="adamw"):
        if (kind, optimizer) not in made:
            folder = tmp_path_factory.mktemp("alone")
            made[kind, optimizer] = trained(folder, "--kind", kind, "--optimizer", optimizer)
        return made[kind, optimizer]

    return of


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["model", "lora", "controlnet"])
@pytest.mark.parametrize("shard", [(), ("--shard",)], ids=["DDP", "FSDP2"])
def test_two_processes_give_what_one_gives(tmp_path, alone, kind, shard):
    assert_same(trained(tmp_path, "--kind", kind, *shard, processes=2), alone(kind))


@pytest.mark.slow
@pytest.mark.parametrize("shard", [(), ("--shard",)], ids=["DDP", "FSDP2"])
def test_came_on_two_processes(tmp_path, alone, shard):
    found = trained(tmp_path, "--optimizer", "came", *shard, processes=2)
    assert_same(found, alone("model", "came"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "then", "options"),
    [(1, 1, ()), (1, 2, ()), (2, 1, ()), (2, 1, ("--shard",)), (1, 2, ("--shard", "--optimizer", "came"))],
)
def test_a_killed_training_goes_on_with_any_number_of_processes(tmp_path, alone, first, then, options):
    killed = start(tmp_path, "--kill", "3", *options, processes=first)
    assert killed.returncode in (-signal.SIGKILL, 1) and not (tmp_path / "out.safetensors").exists()
    assert_same(trained(tmp_path, *options, processes=then), alone("model", "came" if "came" in options else "adamw"))
