"""Gemma-2 in a GGUF file as llama.cpp writes it: made here from the embedded text encoder."""

import json
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import torch
from gguf_gemma import stored_kinds, vocabulary, write
from safetensors import safe_open

from sana_core.checkpoint.files import Checkpoint, read_checkpoint
from sana_core.checkpoint.gguf_gemma import gemma2_from_llama_cpp
from sana_core.checkpoint.sentencepiece_model import sentencepiece_model
from sana_core.checkpoint.weights import misfits, quantised_layers
from sana_core.config import TextConfig
from sana_core.errors import CheckpointError
from sana_core.quantised.gguf_blocks import dequantise, quantise
from sana_core.text.detect import gemma2_tensors, text_config
from sana_core.text.gemma import build_gemma2
from sana_core.text.tokenizer import tokenizer_from_bytes

FILE = Path(__file__).parents[3] / "sana_core/nano/text_encoders/sana_nano_text.safetensors"
TEXTS = [
    "a red apple on a wooden table",
    "  two   spaces, and     five ",
    "\u4e00\u53ea\u732b caf\u00e9 na\u00efve \u0416\u0443\u043a \U0001f680\U0001f431 \u2728 1234",
    "line\nline\n\n\nline\ttab",
    "<bos> <eos><pad><unk> <b>bold</b> <start_of_turn>user",
    "\U00013000 \u0b95\u0bcd \u2581\u2581 \x01",  # pieces that no vocabulary has: bytes
    "",
    " ",
    "a" * 300,
]


@pytest.fixture(scope="module")
def source():
    with safe_open(FILE, "pt") as file:
        return {key: file.get_tensor(key) for key in list(file.keys())}, json.loads(file.metadata()["config"])


@pytest.fixture(scope="module")
def spiece(source):
    return source[0]["spiece_model"].numpy().tobytes()


@pytest.fixture(scope="module")
def path(source, tmp_path_factory):
    return write(tmp_path_factory.mktemp("gguf") / "gemma.gguf", source)


def test_names_norms_and_marks(path, source):
    found = read_checkpoint(path)
    assert set(source[0]) <= set(found.tensors)
    for key, tensor in source[0].items():
        layer, _, name = key.rpartition(".")
        if key.endswith("norm.weight"):
            torch.testing.assert_close(found.tensors[key], tensor.float(), rtol=0, atol=5e-7)
        elif name == "weight":
            assert torch.equal(found.tensors[key], quantise(tensor, "q8_0"))
            assert json.loads(bytes(found.tensors[f"{layer}.comfy_quant"].tolist())) == {"format": "gguf_q8_0"}
            error = (dequantise(found.tensors[key], "q8_0") - tensor.float()).norm() / tensor.float().norm()
            assert error < 0.01
    marked = sum(key.endswith("comfy_quant") for key in found.tensors)
    assert marked == 3 * 7 + 1 and len(found.tensors) == len(source[0]) + marked


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_the_configuration(path, source, device):
    checkpoint = read_checkpoint(path, device)
    found = gemma2_tensors(checkpoint.tensors)
    config = text_config(checkpoint, found)
    assert config == TextConfig(**source[1])
    assert not misfits(found.tensors, build_gemma2(config).state_dict(), quantised_layers(found.tensors))
    assert found.spiece is not None and not found.spiece.is_meta


def test_the_scale_of_the_largest_gemma(path, source, tmp_path):
    config = {**source[1], "num_hidden_layers": 46}
    stated = json.loads(read_checkpoint(write(tmp_path / "m.gguf", (source[0], config)), "meta").metadata["config"])
    assert stated["query_pre_attn_scalar"] == 192 // 3
    config = {**config, "num_attention_heads": 2}
    stated = json.loads(read_checkpoint(write(tmp_path / "n.gguf", (source[0], config)), "meta").metadata["config"])
    assert stated["query_pre_attn_scalar"] == 96 and stated["rms_norm_eps"] == 1e-6
    assert "query_pre_attn_scalar" not in json.loads(read_checkpoint(path, "meta").metadata["config"])


def assert_same_tokens(found, spiece):
    expected = tokenizer_from_bytes(spiece, "original")
    assert found.size == expected.size
    for text in TEXTS:
        ids = expected.encode(text)
        assert found.encode(text) == ids, text
        assert found.decode(ids) == expected.decode(ids)


def test_the_tokenizer(path, spiece):
    found = read_checkpoint(path).tensors["spiece_model"]
    assert_same_tokens(tokenizer_from_bytes(found.numpy().tobytes(), "gguf"), spiece)


@pytest.mark.parametrize("special", [(), ("<mask>", "<b>", "</b>")])
def test_a_tokenizer_with_gemmas_own_pieces(source, tmp_path, special):
    """Runs of spaces and newlines, tags: pieces that are taken whole."""
    import tiny_text

    spiece = tiny_text.spiece()
    tensors = {**source[0], "spiece_model": torch.frombuffer(bytearray(spiece), dtype=torch.uint8)}
    pieces, _, kinds = vocabulary(spiece, special)
    assert "  " in pieces and 4 in kinds and kinds.count(3) == 3 + len(special)
    path = write(tmp_path / "m.gguf", (tensors, source[1]), special=special)
    found = read_checkpoint(path, "meta").tensors["spiece_model"]
    assert_same_tokens(tokenizer_from_bytes(found.numpy().tobytes(), "gguf"), spiece)


def test_a_written_model_is_what_the_library_writes(spiece):
    model = sentencepiece.SentencePieceProcessor(model_proto=spiece)
    kinds = dict(stored_kinds(spiece))
    pieces = [(model.id_to_piece(i), model.get_score(i)) for i in range(model.get_piece_size())]
    written = sentencepiece_model([(piece, score, kinds[piece]) for piece, score in pieces])
    again = sentencepiece.SentencePieceProcessor(model_proto=written)
    assert [again.id_to_piece(i) for i in range(again.get_piece_size())] == [piece for piece, _ in pieces]
    assert [again.get_score(i) for i in range(again.get_piece_size())] == [score for _, score in pieces]
    for name in ("unk_id", "bos_id", "eos_id", "pad_id"):
        assert getattr(again, name)() == getattr(model, name)()


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "t5"])
def test_other_language_models_are_named(source, tmp_path, architecture):
    path = write(tmp_path / "m.gguf", source, architecture=architecture)
    for device in ("cpu", "meta"):
        with pytest.raises(
            CheckpointError, match=rf"m\.gguf: it is a language model of the architecture {architecture}"
        ):
            read_checkpoint(path, device)


def test_a_tokenizer_of_another_kind_is_left_out(source, tmp_path):
    found = read_checkpoint(write(tmp_path / "m.gguf", source, tokenizer="gpt2"))
    assert "spiece_model" not in found.tensors and gemma2_tensors(found.tensors).spiece is None


def test_a_damaged_tokenizer(source, tmp_path):
    with pytest.raises(CheckpointError, match="its tokenizer has 2 pieces, 5120 scores and 5120 kinds"):
        read_checkpoint(write(tmp_path / "m.gguf", source, pieces=["a", "b"]))


def test_what_llama_cpp_does_not_write_keeps_its_name(source, tmp_path):
    path = write(tmp_path / "m.gguf", source, changes={"blk.0.odd.weight": torch.zeros(2, 32)})
    found = read_checkpoint(path)
    tensors = gemma2_tensors(found.tensors)
    config = text_config(Checkpoint(found.tensors, "x", found.metadata), tensors)
    wrong = misfits(tensors.tensors, build_gemma2(config).state_dict())
    assert wrong.unexpected == ["blk.0.odd.weight", "blk.0.odd.comfy_quant"]


def test_gemma_in_several_files(path, source, tmp_path):
    """The configuration and the tokenizer are in the first one."""
    whole = read_checkpoint(path)
    embedding, rest = {"model.embed_tokens.weight"}, {"spiece_model"}
    tensors, config = source
    for number, keys in ((1, embedding), (2, set(tensors) - embedding - rest)):
        part = {key: tensor for key, tensor in tensors.items() if key in keys | rest}
        write(tmp_path / f"m-{number:05}-of-00002.gguf", (part, config), part=number)
    found = read_checkpoint(tmp_path / "m-00002-of-00002.gguf")
    assert found.tensors.keys() == whole.tensors.keys()
    assert all(torch.equal(found.tensors[key], tensor) for key, tensor in whole.tensors.items())
    assert found.metadata["config"] == whole.metadata["config"]
    (tmp_path / "m-00001-of-00002.gguf").unlink()
    with pytest.raises(CheckpointError, match="one of 2 parts"):
        read_checkpoint(tmp_path / "m-00002-of-00002.gguf")


LIST = np.ones(2, np.float32)


@pytest.mark.parametrize("entry, value, said", [
    ("general.architecture", LIST, "an unnamed language model"),
    ("tokenizer.ggml.scores", np.array([0.0, 1e300]), "no scores"),
    ("tokenizer.ggml.scores", np.array([0.0, np.nan], np.float32), "no scores"),
    ("tokenizer.ggml.token_type", LIST, "no kinds"),
])  # fmt: skip
def test_entries_of_another_type(entry, value, said):
    fields = {
        "general.architecture": "gemma2",
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": ["<pad>", "a"],
        "tokenizer.ggml.scores": np.zeros(2, np.float32),
        "tokenizer.ggml.token_type": np.ones(2, np.int32),
    }
    gemma2_from_llama_cpp({}, fields, fields)
    fields[entry] = value
    with pytest.raises(CheckpointError, match=said):
        gemma2_from_llama_cpp({}, fields, fields)


def test_odd_entries_that_say_nothing():
    fields = {
        "general.architecture": "gemma2",
        "tokenizer.ggml.model": LIST,
        "gemma2.block_count": 46,
        "gemma2.embedding_length": np.float32(np.inf),
        "gemma2.attention.head_count": 2,
    }
    tensors, _ = gemma2_from_llama_cpp({}, fields, fields)
    assert tensors == {}
