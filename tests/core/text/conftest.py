"""The tiny tokenizer and Gemma-2 of `tiny_text`, made once."""

import pytest
import tiny_text

from sana_core.text.tokenizer import tokenizer_from_bytes


@pytest.fixture(scope="session")
def spiece():
    return tiny_text.spiece()


@pytest.fixture(scope="session")
def tokenizer(spiece):
    return tokenizer_from_bytes(spiece, "tiny")


@pytest.fixture(scope="session")
def config():
    return tiny_text.config()


@pytest.fixture(scope="session")
def state_dict(config):
    return tiny_text.state_dict(config)
