"""A safetensors file that is written tensor by tensor, and a file that is there whole or not at all."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from sana_core.checkpoint.files import read_checkpoint
from sana_core.checkpoint.new_file import new_file
from sana_core.checkpoint.safetensors_stream import DTYPES, SafetensorsWriter
from sana_core.errors import CheckpointError, InputError

ROOT = Path(__file__).parents[3]
TENSORS = {
    "odd.bytes": torch.arange(13, dtype=torch.uint8),
    "scale": torch.tensor(0.5),
    "weight": torch.randn(8, 6).to(torch.bfloat16),
    "odd.rows": torch.randn(3, 3).to(torch.float16),
    "fp8": torch.randn(5, 7).to(torch.float8_e4m3fn),
    "wide": torch.randn(3, 1, dtype=torch.float64),
    "empty": torch.zeros(0, 4),
    "columns": torch.randn(6, 8).t(),
    "a \u20ac name": torch.ones(3, dtype=torch.int32),
}


def write(path, tensors=TENSORS, **options):
    with SafetensorsWriter(path, tensors=len(tensors), **options) as writer:
        for name, tensor in tensors.items():
            writer.add(name, tensor)


def bytes_of(tensor):
    return tensor.reshape(-1).view(torch.uint8).tolist()


def header(path):
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    return size, json.loads(content[8 : 8 + size])


def test_tensors_of_all_sizes_come_back(tmp_path):
    write(tmp_path / "m.safetensors", metadata={"config": "{}"})
    read = load_file(tmp_path / "m.safetensors")
    assert read.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert read[name].dtype == tensor.dtype and read[name].shape == tensor.shape
        assert bytes_of(read[name]) == bytes_of(tensor)
    with safe_open(tmp_path / "m.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt", "config": "{}"}
    assert read_checkpoint(tmp_path / "m.safetensors").tensors.keys() == TENSORS.keys()


def test_every_tensor_lies_at_a_multiple_of_its_numbers(tmp_path):
    write(tmp_path / "m.safetensors")
    size, entries = header(tmp_path / "m.safetensors")
    assert size % 8 == 0
    for name, entry in entries.items():
        if name != "__metadata__":
            assert entry["data_offsets"][0] % getattr(torch, DTYPES[entry["dtype"]]).itemsize == 0, name


def test_numbers_are_converted_on_the_way(tmp_path):
    weight = torch.randn(4, 8)
    with SafetensorsWriter(tmp_path / "m.safetensors", tensors=2) as writer:
        assert writer.add("a", weight, torch.float16) == 64
        assert writer.add("b", weight) == 128
    read = load_file(tmp_path / "m.safetensors")
    assert torch.equal(read["a"], weight.half()) and torch.equal(read["b"], weight)


def test_no_tensors_at_all(tmp_path):
    write(tmp_path / "m.safetensors", {})
    assert load_file(tmp_path / "m.safetensors") == {}


def test_a_name_twice_and_more_names_than_there_is_room_for(tmp_path):
    with pytest.raises(ValueError, match="twice"), SafetensorsWriter(tmp_path / "m", tensors=2) as writer:
        writer.add("a", torch.ones(3))
        writer.add("a", torch.ones(4))
    with pytest.raises(ValueError, match="room"), SafetensorsWriter(tmp_path / "m", tensors=1) as writer:
        for number in range(40):
            writer.add(f"a{number}", torch.ones(4))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_leaves_nothing(tmp_path, error):
    with pytest.raises(error), new_file(tmp_path / "m") as path, SafetensorsWriter(path, tensors=2) as writer:
        writer.add("a", torch.ones(4))
        raise error
    assert list(tmp_path.iterdir()) == []


def test_an_error_leaves_the_file_that_was_there(tmp_path):
    (tmp_path / "m").write_bytes(b"before")
    with pytest.raises(RuntimeError), new_file(tmp_path / "m", overwrite=True) as path:
        path.write_bytes(b"half")
        raise RuntimeError
    assert [file.name for file in tmp_path.iterdir()] == ["m"] and (tmp_path / "m").read_bytes() == b"before"


def test_overwriting_is_asked_for(tmp_path):
    (tmp_path / "m").write_bytes(b"before")
    with pytest.raises(InputError, match="is there already"), new_file(tmp_path / "m"):
        pytest.fail("the block must not run")
    with new_file(tmp_path / "m", overwrite=True) as path:
        path.write_bytes(b"after")
    assert (tmp_path / "m").read_bytes() == b"after"


def test_a_file_that_appears_meanwhile_is_kept(tmp_path):
    with pytest.raises(InputError, match="is there already"), new_file(tmp_path / "m") as path:
        path.write_bytes(b"late")
        (tmp_path / "m").write_bytes(b"early")
    assert (tmp_path / "m").read_bytes() == b"early" and len(list(tmp_path.iterdir())) == 1


def test_no_folder_and_a_folder(tmp_path):
    with pytest.raises(InputError, match="there is no folder"), new_file(tmp_path / "no" / "m"):
        pass
    with pytest.raises(InputError, match="is a folder"), new_file(tmp_path, overwrite=True):
        pass


@pytest.mark.parametrize(("number", "said"), [(errno.ENOSPC, "no space is left"), (errno.EACCES, "cannot be written")])
def test_a_disk_that_refuses(tmp_path, number, said):
    with pytest.raises(InputError, match=said), new_file(tmp_path / "m") as path:
        path.write_bytes(b"half")
        raise OSError(number, os.strerror(number))
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys, torch
from pathlib import Path
from sana_core.checkpoint.new_file import new_file
from sana_core.checkpoint.safetensors_stream import SafetensorsWriter
with new_file(Path(sys.argv[1])) as path, SafetensorsWriter(path, tensors=9) as writer:
    writer.add("a", torch.ones(1 << 16))
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_leaves_no_file_that_loads(tmp_path):
    target = tmp_path / "m.safetensors"
    result = subprocess.run([sys.executable, "-c", KILLED, str(target)], cwd=ROOT, check=False)
    assert result.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.match("m.safetensors.*.partial")
    with pytest.raises(CheckpointError):
        read_checkpoint(left)
    with new_file(target) as path:  # what is left over is in nobody's way
        write(path)
    assert sorted(tmp_path.iterdir()) == [target, left]


def test_two_at_a_time_and_other_files_are_in_nobodys_way(tmp_path):
    target, others = tmp_path / "m.safetensors", tmp_path / "m.safetensors.partial"
    others.write_text("somebody's")
    with new_file(target, overwrite=True) as first, new_file(target, overwrite=True) as second:
        assert first != second
        write(first)
        write(second)
    read_checkpoint(target)
    assert sorted(tmp_path.iterdir()) == [target, others] and others.read_text() == "somebody's"


def test_a_link_stays_one_and_a_device_is_no_file(tmp_path):
    (tmp_path / "real").mkdir()
    link = tmp_path / "m.safetensors"
    link.symlink_to(tmp_path / "real" / "m.safetensors")
    with new_file(link) as path:
        write(path)
    assert link.is_symlink() and (tmp_path / "real" / "m.safetensors").is_file()
    with pytest.raises(InputError, match="is a device"), new_file(Path(os.devnull), overwrite=True):
        pass
