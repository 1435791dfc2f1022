"""PyTorch's files are zip archives: compressed ones are read right, and ones that unpack to far more are not opened."""

import time
import zipfile

import pytest
import tiny
import torch

from sana_core import load_lora, load_transformer
from sana_core.errors import CheckpointError


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "plain.pth"
    torch.save({"state_dict": tiny.transformer().state_dict()}, path)
    return path


def zipped(path, target, compression, extra=None):
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w", compression) as new:
        for member in old.infolist():
            new.writestr(member.filename, old.read(member) + (extra or {}).get(member.filename.split("/")[-1], b""))
    return target


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_archive_that_was_zipped_again_is_read_right(saved, tmp_path, compression):
    expected = load_transformer(saved).state_dict()
    found = load_transformer(zipped(saved, tmp_path / "again.pth", compression)).state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("member", ["data.pkl", "0"])
def test_what_unpacks_to_far_more_is_not_opened(saved, tmp_path, member):
    bomb = zipped(saved, tmp_path / "bomb.pth", zipfile.ZIP_DEFLATED, {member: b"\0" * 300_000_000})
    begun = time.monotonic()
    with pytest.raises(CheckpointError, match="unpacks to far more"):
        load_transformer(bomb)
    assert time.monotonic() - begun < 2


def test_factors_that_repeat_stored_numbers_are_refused(tmp_path):
    path, name = tmp_path / "lora.pth", "transformer.transformer_blocks.0.attn1.to_q"
    down, up = torch.ones(1).expand(10**9, 224), torch.ones(1).expand(224, 10**9)
    torch.save({f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}, path)
    with pytest.raises(CheckpointError, match="repeats the numbers that are stored"):
        load_lora(path)


def test_tensors_without_numbers_are_none(tmp_path):
    path = tmp_path / "meta.pth"
    torch.save({key: tensor.to("meta") for key, tensor in tiny.transformer().state_dict().items()}, path)
    with pytest.raises(CheckpointError, match="no state dict of tensors"):
        load_transformer(path)
