"""SentencePiece bytes, tokenizer.model and tokenizer.json give the same ids."""

import io
import json

import pytest
import sentencepiece
import tiny_text

from sana_core.errors import CheckpointError, InputError
from sana_core.text.instruction import INSTRUCTIONS
from sana_core.text.tokenizer import JsonTokenizer, SentencePieceTokenizer, read_tokenizer, tokenizer_from_bytes

TEXTS = [
    "", "a cat", " lead", "tail ", "two  spaces   three     five", "line\nbreak\n\nand\n\n\n\n\n\nmore",
    "caf\u00e9 \u732b \U0001f431 42 1234", "tab\there", "<b>bold</b> <mask> <table>",
    "not <bos>special<eos> but <pad> and <unk>", "<B> < b > <", "x" * 50,
    INSTRUCTIONS["default"] + "a small cat", INSTRUCTIONS["diffusers"],
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory, spiece):
    """tokenizer.model and tokenizer.json, the latter with padding and truncation left over from an earlier use."""
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "tokenizer.model").write_bytes(spiece)
    tokenizer = tiny_text.hugging_face_tokenizer(spiece)
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=7)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.parametrize("text", TEXTS)
def test_every_form_gives_the_same_ids(tokenizer, folder, text):
    forms = [tokenizer, *(read_tokenizer(folder / name) for name in ("", "tokenizer.model", "tokenizer.json"))]
    assert [type(form) for form in forms] == [SentencePieceTokenizer] * 3 + [JsonTokenizer]
    ids = tokenizer.encode(text)
    assert ids[0] == 2
    assert all(form.encode(text) == ids for form in forms)
    assert all(form.size == tokenizer.size for form in forms)
    assert all(form.decode(ids) == text for form in forms)


def test_special_pieces_and_runs(tokenizer):
    assert tokenizer.encode("<mask>\n\n<eos><b>") == [2, 4, 6, 1, tokenizer.processor.piece_to_id("<b>")]
    assert tokenizer.encode("  ") == [2, tokenizer.processor.piece_to_id("\u2581\u2581")]


def test_lone_surrogates(tokenizer, folder):
    for form in (tokenizer, read_tokenizer(folder / "tokenizer.json")):
        with pytest.raises(InputError, match=r"not valid Unicode text, found '\\udcff' at position 3 of 'caf\\udcff'"):
            form.encode("caf\udcff")


def test_decode_of_a_cut_prompt_is_a_prefix(tokenizer):
    text = "a red apple, <b>oil</b>  painting\n\n<eos> 42"
    ids = tokenizer.encode(text)
    assert all(text.startswith(tokenizer.decode(ids[:n])) for n in range(1, len(ids) + 1))


def test_a_folder_beside_or_inside(tmp_path, spiece, tokenizer):
    for place in (tmp_path / "pipeline" / "tokenizer", tmp_path / "lone" / "text_encoder" / "tokenizer"):
        place.mkdir(parents=True)
        (place / "tokenizer.model").write_bytes(spiece)
    (tmp_path / "pipeline" / "text_encoder").mkdir()
    for path in (tmp_path / "pipeline" / "text_encoder", tmp_path / "lone" / "text_encoder", tmp_path / "pipeline"):
        assert read_tokenizer(path).encode("a cat") == tokenizer.encode("a cat")


def test_a_folder_with_tokenizer_json_only(tmp_path, folder, tokenizer):
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    assert read_tokenizer(tmp_path).encode("a <b>cat</b>") == tokenizer.encode("a <b>cat</b>")


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("tokenizer.model", b"", "not a SentencePiece model"),
        ("tokenizer.model", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "not a SentencePiece model"),
        ("tokenizer.json", b'{"version": "1.0"}', "not a Hugging Face tokenizer.json"),
        ("tokenizer.json", b'{"model": ', "not a Hugging Face tokenizer.json"),
    ],
)
def test_not_a_tokenizer(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as error:
        read_tokenizer(tmp_path)
    assert str(tmp_path / name) in str(error.value)


def test_a_tokenizer_of_another_model(tmp_path):
    """Llama's and T5's order of the special ids."""
    for pad, unk, bos, eos in ((-1, 0, 1, 2), (0, 2, -1, 1)):
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["a cat and a dog"] * 4), model_writer=model, vocab_size=16, model_type="bpe",
            minloglevel=2, pad_id=pad, unk_id=unk, bos_id=bos, eos_id=eos, bos_piece="<bos>",
        )  # fmt: skip
        with pytest.raises(CheckpointError, match="not Gemma's tokenizer"):
            tokenizer_from_bytes(model.getvalue(), "llama")


def test_no_such_place(tmp_path):
    with pytest.raises(CheckpointError, match=r"no tokenizer\.model and no tokenizer\.json"):
        read_tokenizer(tmp_path)
    with pytest.raises(CheckpointError, match="no such tokenizer"):
        read_tokenizer(tmp_path / "absent.model")


def test_pieces_that_are_no_text(spiece):
    place = spiece.index(b"<pad>")
    with pytest.raises(CheckpointError, match="not a SentencePiece model"):
        tokenizer_from_bytes(spiece[:place] + b"\xff\xff" + spiece[place + 2 :] + b"\xff", "it")


def test_a_json_tokenizer_that_would_crash_its_library(tmp_path, folder):
    whole = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    whole["model"]["continuing_subword_prefix"] = "x" * 100
    (tmp_path / "tokenizer.json").write_text(json.dumps(whole))
    with pytest.raises(CheckpointError, match="not Gemma's tokenizer"):
        read_tokenizer(tmp_path)
