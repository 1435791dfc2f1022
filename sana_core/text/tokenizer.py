"""Gemma's tokenizer from a SentencePiece model or from a Hugging Face tokenizer.json.

Both give the same ids, but split more than 31 spaces in a row at different places. Special pieces that are written out
in a prompt (`<b>`, `<start_of_turn>`, `<eos>`) become their ids, as in transformers' Gemma tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from ..checkpoint.read_json import read_object
from ..errors import CheckpointError, InputError

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor
    from tokenizers import Tokenizer as FastTokenizer

BOS_ID = 2
AFFIXES = ("continuing_subword_prefix", "end_of_word_suffix")
FILES = ("tokenizer.model", "tokenizer.json")


class SentencePieceTokenizer:
    """A SentencePiece model with Gemma's settings (no dummy prefix, byte fallback)."""

    def __init__(self, processor: SentencePieceProcessor) -> None:
        self.processor = processor
        self.size = processor.get_piece_size()
        # Gemma's control pieces; SentencePiece itself would spell them out in bytes
        ids = (processor.pad_id(), processor.eos_id(), processor.bos_id(), processor.unk_id())
        self._control = {processor.id_to_piece(i): i for i in ids if i >= 0}
        self._split = re.compile(f"({'|'.join(map(re.escape, self._control))})")

    def encode(self, text: str) -> list[int]:
        """Token ids, BOS first, no EOS."""
        check_text(text)
        ids = [BOS_ID]
        for part in self._split.split(text):
            if part in self._control:
                ids.append(self._control[part])
            elif part:
                ids.extend(self.processor.encode(part))
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids` without a leading BOS."""
        pieces = {i: piece for piece, i in self._control.items()}
        ids = list(ids[1:] if ids[:1] == [BOS_ID] else ids)
        runs = groupby(ids, key=pieces.get)  # consecutive ids of ordinary pieces (key None) are decoded together
        return "".join(
            self.processor.decode(list(run)) if piece is None else piece * len(list(run)) for piece, run in runs
        )


class JsonTokenizer:
    """A Hugging Face tokenizer.json."""

    def __init__(self, tokenizer: FastTokenizer) -> None:
        tokenizer.no_truncation()  # both may be left over in the file from an earlier use
        tokenizer.no_padding()
        self.tokenizer = tokenizer
        self.size = tokenizer.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Token ids, BOS first, no EOS."""
        check_text(text)
        return [BOS_ID, *self.tokenizer.encode(text, add_special_tokens=False).ids]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids` without a leading BOS."""
        return self.tokenizer.decode(list(ids[1:] if ids[:1] == [BOS_ID] else ids), skip_special_tokens=False)


GemmaTokenizer = SentencePieceTokenizer | JsonTokenizer


def check_text(text: str, name: str = "the prompt") -> None:
    """Raise InputError for lone surrogates. Python makes them of bytes that are not UTF-8; no tokenizer takes them."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        found = f"{text[error.start]!a} at position {error.start} of {text!a:.80}"
        raise InputError(f"{name} is not valid Unicode text, found {found}: write it in UTF-8") from error


def find_tokenizer(folder: str | Path) -> Path | None:
    """tokenizer.model or tokenizer.json in `folder`, in its `tokenizer` subfolder or in the `tokenizer` folder beside
    it.
    """
    folder = Path(folder)
    places = (folder, folder / "tokenizer", folder.absolute().parent / "tokenizer")
    return next((place / name for place in places for name in FILES if (place / name).is_file()), None)


def read_tokenizer(path: str | Path) -> GemmaTokenizer:
    """Read a tokenizer.model, a tokenizer.json or a folder that holds one. Raises CheckpointError."""
    path = Path(path)
    if path.is_dir():
        found = find_tokenizer(path)
        if found is None:
            raise CheckpointError(f"{path}: no tokenizer.model and no tokenizer.json in this folder")
        path = found
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such tokenizer file or folder")
    content = path.read_bytes()
    return _from_json(content, str(path)) if content.lstrip()[:1] == b"{" else tokenizer_from_bytes(content, str(path))


def tokenizer_from_bytes(content: bytes, source: str) -> SentencePieceTokenizer:
    """A tokenizer from a serialised SentencePiece model (tokenizer.model, or the `spiece_model` tensor of ComfyUI's
    Gemma file).
    """
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(content)
        tokenizer = SentencePieceTokenizer(processor)
    except (RuntimeError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{source} is not a SentencePiece model ({len(content)} bytes): get Gemma-2's again"
        ) from error
    _check_bos(processor.bos_id(), source)
    return tokenizer


def _from_json(content: bytes, source: str) -> JsonTokenizer:
    from tokenizers import Tokenizer

    try:
        model = read_object(content, "it").get("model")
        affixed = isinstance(model, dict) and any(model.get(name) for name in AFFIXES)
        tokenizer = None if affixed else Tokenizer.from_buffer(content)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library raises nothing more specific, and its panics are no Exception
        raise CheckpointError(
            f"{source} is not a Hugging Face tokenizer.json ({error}): get Gemma-2's again"
        ) from error
    if tokenizer is None:  # with these the library may end the process
        raise CheckpointError(f"{source} is not Gemma's tokenizer, whose pieces have no {' and no '.join(AFFIXES)}")
    _check_bos(tokenizer.token_to_id("<bos>"), source)
    return JsonTokenizer(tokenizer)


def _check_bos(bos_id: int | None, source: str) -> None:
    if bos_id != BOS_ID:
        raise CheckpointError(
            f"{source} is not Gemma's tokenizer: its beginning-of-text id is {bos_id}, expected {BOS_ID}"
        )
