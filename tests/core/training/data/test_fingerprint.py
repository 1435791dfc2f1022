"""A few letters that say which weights a network has."""

import pytest
import torch
from torch import nn

from sana_core.training.data.fingerprint import file_fingerprint, fingerprint


def network(seed=0, width=40):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(width, 50), nn.BatchNorm1d(50), nn.Linear(50, 3, bias=False))


def test_equal_weights_have_one_fingerprint():
    assert fingerprint(network()) == fingerprint(network())
    assert fingerprint(network(seed=1)) != fingerprint(network())
    assert fingerprint(network(width=41)) != fingerprint(network())
    assert fingerprint(network().to(torch.bfloat16)) != fingerprint(network())


@pytest.mark.parametrize("name", list(network().state_dict()))
def test_any_tensor_that_is_replaced_changes_it(name):
    changed = network()
    tensor = changed.state_dict()[name]
    tensor.copy_(torch.rand(tensor.shape).mul(9).add(1))
    assert fingerprint(changed) != fingerprint(network())


def test_number_types_of_all_sizes():
    for dtype in (torch.float8_e4m3fn, torch.uint8, torch.bool, torch.float64):
        one = nn.Module()
        one.register_buffer("weight", torch.ones(1000).to(dtype))
        assert fingerprint(one) == fingerprint(one)


def test_strided_and_empty_tensors():
    one = nn.Module()
    one.register_buffer("strided", torch.arange(1000.0).reshape(20, 50).t())
    one.register_buffer("empty", torch.zeros(0))
    one.register_buffer("scalar", torch.tensor(1.0))
    assert len(fingerprint(one)) == 32


def test_files_are_told_apart_by_what_is_in_them(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(bytes(100_000))
    other.write_bytes(bytes(99_999) + b"1")
    first = file_fingerprint(one)
    assert first == file_fingerprint(one) != file_fingerprint(other)
    assert file_fingerprint(tmp_path) not in (first, file_fingerprint(other))
