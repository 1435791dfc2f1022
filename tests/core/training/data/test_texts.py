"""Text states on disk."""

import pytest
import torch

from sana_core.errors import CheckpointError, InputError
from sana_core.training.data.texts import TextCache, all_texts, drawn_texts

from .made import example


class Encoder:
    """A token for each letter and one more, counted."""

    def __init__(self, value=1.0, dtype=torch.float32):
        self.texts, self.value, self.dtype = [], value, dtype

    def __call__(self, texts):
        self.texts.append(texts)
        lengths = torch.tensor([len(text) + 1 for text in texts])
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        states = torch.arange(int(lengths.max()))[None, :, None] * self.value + torch.zeros(len(texts), 1, 4)
        return states.to(self.dtype), mask


def test_texts_are_encoded_once_in_batches(tmp_path):
    encode, seen = Encoder(), []
    cache = TextCache(tmp_path, "encoder")
    cache.fill(["aaa", "", "bb", "aaa"], encode, batch=2, progress=lambda *state: seen.append(state))
    assert encode.texts == [["", "bb"], ["aaa"]] and seen == [(0, 3), (2, 3), (3, 3)]
    cache.fill(["bb", "cc"], encode)
    assert encode.texts[2:] == [["cc"]]
    assert cache.read("bb").tolist() == [[0.0] * 4, [1.0] * 4, [2.0] * 4]


def test_a_batch_is_padded_with_zeros(tmp_path):
    cache = TextCache(tmp_path, "encoder")
    cache.fill(["a", "bbb"], Encoder())
    states, mask = cache.batch(["bbb", "a"])
    assert states.shape == (2, 4, 4) and states.dtype == torch.bfloat16
    assert mask.tolist() == [[True] * 4, [True, True, False, False]]
    assert (states[1, 2:] == 0).all()


def test_numbers_beyond_float16_are_kept(tmp_path):
    cache = TextCache(tmp_path, "encoder")
    cache.fill(["a"], Encoder(value=2.0**20, dtype=torch.bfloat16))
    assert cache.read("a")[1, 0] == 2.0**20
    with pytest.raises(InputError, match="not finite for 'b'"):
        cache.fill(["b"], Encoder(value=2.0**20, dtype=torch.float16))


@pytest.mark.parametrize("other", [("another", None), ("encoder", "an instruction")])
def test_another_encoder_or_instruction_is_another_entry(tmp_path, other):
    TextCache(tmp_path, "encoder").fill(["a"], Encoder())
    with pytest.raises(CheckpointError, match="missing"):
        TextCache(tmp_path, *other).read("a")


def test_a_damaged_file_is_made_again(tmp_path):
    cache, encode = TextCache(tmp_path, "encoder"), Encoder()
    cache.fill(["a"], encode)
    (path,) = tmp_path.rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    cache.fill(["a"], encode)
    assert len(encode.texts) == 2 and len(cache.read("a")) == 2


def test_texts_of_a_data_set_and_of_a_draw():
    examples = [example("a", 1, 1, (("x", 1.0), ("y", 1.0))), example("b", 1, 1, (("y", 1.0),))]
    assert all_texts(examples) == ["", "x", "y"]
    assert drawn_texts(examples, (1, 0, 0), (0, -1, 0)) == ["y", "", "x"]
