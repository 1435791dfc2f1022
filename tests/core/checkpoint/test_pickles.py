"""What trainers save beside weights is passed over, wherever the weights are; nothing of it runs."""

import argparse
import collections
import datetime
import enum
import os
import pathlib
import pickle
import random
import subprocess
import tracemalloc

import numpy as np
import pytest
import tiny
import torch

from sana_core.checkpoint.files import read_checkpoint
from sana_core.checkpoint.load import load_autoencoder, load_controlnet, load_transformer
from sana_core.checkpoint.pickles import WRAPPERS
from sana_core.errors import CheckpointError


@pytest.fixture(scope="module")
def weights():
    return tiny.transformer().state_dict()


class Settings(dict):
    """A dict of another class, as OmegaConf, EasyDict and mmcv have them."""


class Options:
    def __init__(self):
        self.learning_rate = 1e-4


class Mode(enum.Enum):
    TRAIN = 1


BESIDE = {
    "random states": {"torch": torch.get_rng_state(), "numpy": np.random.get_state(), "python": random.getstate()},
    "numpy numbers": [np.float64(3.0), np.int64(3), np.array(["a"]), np.dtype("float32"), np.bool_(True)],
    "optimizer": {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(9)}}, "param_groups": [{"lr": 1e-4}]},
    "arguments": argparse.Namespace(lr=1e-4, path=pathlib.PurePosixPath("a/b")),
    "settings": Settings(a=1, b=Settings(c=[2])),
    "options": Options(),
    "containers": {
        "a": collections.defaultdict(int, x=1),
        "b": collections.OrderedDict(x=1),
        "c": {1, 2},
        "d": (None, b"x"),
    },
    "times": [datetime.datetime(2026, 1, 1), datetime.timedelta(1)],
    "types": [torch.float16, torch.device("cpu"), torch.Size([1])],
    "class": Options,
    "mode": Mode.TRAIN,
}


@pytest.mark.parametrize("name", BESIDE)
def test_what_trainers_save_beside_the_weights(tmp_path, weights, name):
    torch.save({"epoch": 1, name: BESIDE[name], "state_dict": weights}, tmp_path / "m.pth")
    for device in ("cpu", "meta"):
        found = read_checkpoint(tmp_path / "m.pth", device).tensors
        assert found.keys() == weights.keys()
    assert torch.equal(
        found := load_transformer(tmp_path / "m.pth").state_dict()["proj_out.bias"], weights["proj_out.bias"]
    ), found


def test_all_of_it_together(tmp_path, weights):
    plain = {name: value for name, value in BESIDE.items() if name not in ("settings", "containers")}
    torch.save({**plain, "state_dict": weights}, tmp_path / "m.pth")
    assert read_checkpoint(tmp_path / "m.pth").tensors.keys() == weights.keys()


@pytest.mark.parametrize("name", [*WRAPPERS, "my_network"])
def test_dicts_around_the_weights(tmp_path, weights, name):
    beside = {"optimizer": BESIDE["optimizer"], "step": torch.tensor(3)}
    for number, content in enumerate(
        ({name: weights}, {name: {"model": weights}}, {**beside, name: weights, "config": {"a": 1}})
    ):
        torch.save(content, tmp_path / f"{number}.pth")
        assert read_checkpoint(tmp_path / f"{number}.pth").tensors.keys() == weights.keys()


def test_which_weights_where_there_are_two(tmp_path, weights):
    average = {key: tensor + 1 for key, tensor in weights.items()}
    for chosen, other in (
        ("state_dict", "state_dict_ema"),
        ("model", "ema"),
        ("params_ema", "params"),
        ("generator", "critic"),
    ):
        torch.save({other: average, chosen: weights}, tmp_path / "m.pth")
        found = read_checkpoint(tmp_path / "m.pth").tensors
        assert torch.equal(found["proj_out.bias"], weights["proj_out.bias"]), chosen


WRAPPED = (
    "_orig_mod.",
    "module.",
    "_fsdp_wrapped_module.",
    "_forward_module.",
    "module._orig_mod.",
    "model.module._orig_mod.",
)
NETWORKS = {
    "transformer": (tiny.transformer, load_transformer),
    "autoencoder": (tiny.autoencoder, load_autoencoder),
    "controlnet": (tiny.controlnet, load_controlnet),
}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("prefix", WRAPPED)
def test_modules_around_the_network(tmp_path, network, prefix):
    make, load = NETWORKS[network]
    expected = make().state_dict()
    torch.save(
        {prefix + key: tensor for key, tensor in expected.items()} | {"n_averaged": torch.tensor(3)}, tmp_path / "m.pth"
    )
    found = load(tmp_path / "m.pth").state_dict()
    assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())


@pytest.mark.parametrize("network", NETWORKS)
def test_modules_around_every_block(tmp_path, network):
    """Activation checkpointing, FSDP and compilation by block."""
    make, load = NETWORKS[network]
    expected = make().state_dict()

    def wrapped(key):
        parts = [
            f"{part}._checkpoint_wrapped_module._fsdp_wrapped_module" if part.isdigit() else part
            for part in key.split(".")
        ]
        return "module." + ".".join(parts)

    torch.save({wrapped(key): tensor for key, tensor in expected.items()}, tmp_path / "m.pth")
    found = load(tmp_path / "m.pth").state_dict()
    assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())
    key = next(key for key in expected if "0" in key.split("."))
    torch.save({wrapped(k): t for k, t in expected.items()} | {wrapped(key): torch.ones(3, 5, 7)}, tmp_path / "m.pth")
    with pytest.raises(CheckpointError) as error:
        load(tmp_path / "m.pth")
    assert wrapped(key) in str(error.value), "the message has the file's own names"


def test_a_network_twice_under_two_wrappers_is_not_mixed(tmp_path, weights):
    torch.save({**weights, "module.proj_out.bias": torch.zeros(32)}, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match=r"unexpected \(module\.proj_out\.bias\)"):
        load_transformer(tmp_path / "m.pth")


class Runs:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "function", [os.mkdir, subprocess.getoutput, exec, eval, getattr, __import__, pickle.loads, os.system]
)
@pytest.mark.parametrize("place", ["beside", "inside"])
def test_functions_of_pythons_library_are_refused(tmp_path, weights, function, place):
    marker = tmp_path / "executed"
    hostile = Runs(function, str(marker))
    content = {"state_dict": weights, "x": hostile} if place == "beside" else {"state_dict": {**weights, "x": hostile}}
    torch.save(content, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match="could run code"):
        read_checkpoint(tmp_path / "m.pth")
    assert not marker.exists()


def test_a_function_of_another_package_does_not_run(tmp_path, weights):
    """numpy.save would write a file; what stands in for it does nothing."""
    marker = tmp_path / "written.npy"
    torch.save({"state_dict": weights, "x": Runs(np.save, str(marker), [1])}, tmp_path / "m.pth")
    assert read_checkpoint(tmp_path / "m.pth").tensors.keys() == weights.keys()
    assert not marker.exists()


def test_nothing_stays_allowed(tmp_path, weights):
    torch.save({"state_dict": weights, "x": np.random.get_state()}, tmp_path / "m.pth")
    before = set(torch.serialization.get_safe_globals())
    read_checkpoint(tmp_path / "m.pth")
    assert set(torch.serialization.get_safe_globals()) == before
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "m.pth", weights_only=True)


def test_other_archives_are_called_what_they_are(tmp_path):
    np.savez(tmp_path / "m.npz", a=np.ones(3))
    with pytest.raises(CheckpointError, match="a zip archive without a PyTorch model"):
        read_checkpoint(tmp_path / "m.npz")
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match="TorchScript"):
        read_checkpoint(tmp_path / "m.pt")


def test_pytorchs_advice_to_load_all_the_same_is_not_repeated(tmp_path):
    (tmp_path / "m.pth").write_bytes(b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00id\x85R.")
    with pytest.raises(CheckpointError, match=r"when opened \(os\.system\); it was not loaded") as found:
        read_checkpoint(tmp_path / "m.pth")
    assert "weights_only" not in str(found.value)


@pytest.mark.parametrize("damage", [b"\x80\x02J\x01", b"\x80\x02X\xff\xff\xff\x7fabc", b"\x80\x02\x8a\x01"])
def test_files_of_the_older_format_that_end_early(tmp_path, damage):
    (tmp_path / "m.pth").write_bytes(damage)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=r"not a whole PyTorch file|could run code"):
        read_checkpoint(tmp_path / "m.pth")
    assert tracemalloc.get_traced_memory()[1] < 10_000_000  # a text of 2 GiB is announced
    tracemalloc.stop()
