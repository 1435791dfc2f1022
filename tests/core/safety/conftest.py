"""The tiny ShieldGemma of `tiny_shield`, made once."""

import pytest
import tiny_shield
import torch
from safetensors.torch import save_file

from sana_core.safety import load_shield


@pytest.fixture(scope="session")
def spiece():
    return tiny_shield.spiece()


@pytest.fixture(scope="session")
def tokenizer(spiece):
    return tiny_shield.tokenizer(spiece)


@pytest.fixture(scope="session")
def network(tokenizer):
    return tiny_shield.model(tokenizer)


@pytest.fixture(scope="session")
def path(network, spiece, tmp_path_factory):
    path = tmp_path_factory.mktemp("shield") / "shield.safetensors"
    tensors, metadata = tiny_shield.single_file(network, spiece)
    save_file(tensors, path, metadata)
    return path


@pytest.fixture(scope="session")
def shield(path):
    return load_shield(path, device=torch.device("cpu"))
