"""Bad files: one clear error each, and nothing in them runs."""

import json
import os
import pickle
import struct

import pytest
import torch
from safetensors.torch import save_file

from sana_core.checkpoint.files import read_checkpoint
from sana_core.errors import CheckpointError


@pytest.fixture
def tensors():
    return {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.float16)}


class Hostile:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (self.marker,)


def test_safetensors_and_pickle_give_the_same_tensors(tmp_path, tensors):
    save_file(tensors, tmp_path / "m.safetensors", {"config": "{}"})
    torch.save({"state_dict": tensors, "epoch": 3}, tmp_path / "m.pth")
    torch.save(tensors, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    for name in ("m.safetensors", "m.pth", "old.bin"):
        found = read_checkpoint(tmp_path / name).tensors
        assert found.keys() == tensors.keys()
        assert all(
            torch.equal(found[key], tensors[key]) and found[key].dtype == tensors[key].dtype for key in tensors
        ), name
    assert read_checkpoint(tmp_path / "m.safetensors").metadata == {"config": "{}"}


def test_content_decides_not_the_name(tmp_path, tensors):
    torch.save(tensors, tmp_path / "really_a_pickle.safetensors")
    assert read_checkpoint(tmp_path / "really_a_pickle.safetensors").tensors.keys() == tensors.keys()


@pytest.mark.parametrize("name", ["m.safetensors", "m.pth"])
def test_meta_reads_shapes_only(tmp_path, tensors, name):
    save_file(tensors, tmp_path / "m.safetensors")
    torch.save(tensors, tmp_path / "m.pth")
    found = read_checkpoint(tmp_path / name, "meta").tensors
    assert {key: (t.device.type, t.shape, t.dtype) for key, t in found.items()} == {
        key: ("meta", t.shape, t.dtype) for key, t in tensors.items()
    }


@pytest.mark.parametrize("protocol", ["zip", "plain"])
def test_code_in_a_pickle_does_not_run(tmp_path, tensors, protocol):
    marker, path = tmp_path / "executed", tmp_path / "hostile.pth"
    content = {"state_dict": {**tensors, "c": Hostile(str(marker))}}
    if protocol == "zip":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(CheckpointError, match=r"(could run code|truncated or damaged)"):
        read_checkpoint(path)
    assert not marker.exists()


def header(entries):
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text


BROKEN = {
    "empty file": (b"", "an empty file"),
    "web page": (b"<!DOCTYPE html><html><body>404", "a web page"),
    "Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
    "GGUF": (b"GGUF\x03\x00\x00\x00" + bytes(range(64)), "truncated or damaged"),
    "text": (b"this is not a model at all, just some text", "not a model file"),
    "header of impossible length": (struct.pack("<Q", 2**60) + b"{" + bytes(80), "truncated or damaged"),
    "sizes beyond the file": (
        header({"a": {"dtype": "F32", "shape": [1000, 1000], "data_offsets": [0, 4000000]}}) + bytes(16),
        "truncated or damaged",
    ),
    "shape that is not the size": (
        header({"a": {"dtype": "F32", "shape": [64, 64], "data_offsets": [0, 16]}}) + bytes(16),
        "truncated or damaged",
    ),
    "header that is no JSON": (struct.pack("<Q", 20) + b"{" + b"x" * 40, "truncated or damaged"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files(tmp_path, case):
    content, message = BROKEN[case]
    (tmp_path / "m.safetensors").write_bytes(content)
    for device in ("cpu", "meta"):
        with pytest.raises(CheckpointError, match=message) as error:
            read_checkpoint(tmp_path / "m.safetensors", device)
        assert "m.safetensors" in str(error.value)


@pytest.mark.parametrize("name", ["m.safetensors", "m.pth"])
def test_truncated_files(tmp_path, tensors, name):
    save_file(tensors, tmp_path / "m.safetensors")
    torch.save(tensors, tmp_path / "m.pth")
    whole = (tmp_path / name).read_bytes()
    for keep in (len(whole) // 2, len(whole) - 3):
        (tmp_path / name).write_bytes(whole[:keep])
        with pytest.raises(CheckpointError, match="truncated or damaged"):
            read_checkpoint(tmp_path / name)


def test_a_pickle_without_tensors(tmp_path):
    torch.save({"epoch": 3, "names": ["a"]}, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match="no state dict"):
        read_checkpoint(tmp_path / "m.pth")


def test_folders(tmp_path, tensors):
    with pytest.raises(CheckpointError, match=r"no \.safetensors"):
        read_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="no such file"):
        read_checkpoint(tmp_path / "nowhere")
    save_file({"a": tensors["a"]}, tmp_path / "model-00001-of-00002.safetensors")
    save_file({"b": tensors["b"]}, tmp_path / "model-00002-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "config.json").write_text('{"x": 1}')
    found = read_checkpoint(tmp_path)
    assert found.tensors.keys() == {"a", "b"} and found.config == {"x": 1}
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors"):
        read_checkpoint(tmp_path)


def test_a_16_bit_variant_is_taken_only_alone(tmp_path, tensors):
    save_file({"a": tensors["a"].half()}, tmp_path / "diffusion_pytorch_model.fp16.safetensors")
    assert read_checkpoint(tmp_path).tensors["a"].dtype == torch.float16
    save_file({"a": tensors["a"]}, tmp_path / "diffusion_pytorch_model.safetensors")
    assert read_checkpoint(tmp_path).tensors["a"].dtype == torch.float32


def test_a_folder_of_several_models_is_no_choice(tmp_path, tensors):
    for name in ("cat", "dogs"):
        save_file(tensors, tmp_path / f"{name}.safetensors")
    with pytest.raises(
        CheckpointError, match=r"holds several models \(cat\.safetensors, dogs\.safetensors\): name the file"
    ):
        read_checkpoint(tmp_path)


def test_a_whole_pipeline_is_not_a_component(tmp_path):
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(CheckpointError, match="transformer"):
        read_checkpoint(tmp_path)
