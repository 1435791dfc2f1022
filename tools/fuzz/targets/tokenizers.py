"""Gemma's tokenizer, as a SentencePiece model and as a tokenizer.json."""

from __future__ import annotations

import functools
from pathlib import Path

import tiny_text

from sana_core.text.tokenizer import read_tokenizer

from ..target import Files, Target
from . import networks


@functools.cache
def seeds() -> list[Files]:
    spiece = networks.text_tensors()[0]["spiece_model"].numpy().tobytes()
    fast = tiny_text.hugging_face_tokenizer(spiece).to_str().encode()
    return [{"tokenizer.model": spiece}, {"tokenizer.json": fast}]


def read(folder: Path) -> None:
    tokenizer = read_tokenizer(folder)
    tokenizer.decode(tokenizer.encode("a red apple <b>\n\n on \u4e2d\u6587 a table <eos>"))


TARGETS = (Target(name="tokenizer", seeds=seeds, read=read),)
