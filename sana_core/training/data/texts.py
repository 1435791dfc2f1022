"""Text states of captions, encoded once and kept on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import InputError
from .cache import TensorFiles, finite
from .example import Example

FORM = 1  # of the entries
BATCH = 16  # texts that are encoded at once
EMPTY = ""  # the prompt in place of a dropped caption


class TextCache:
    """States of the tokens that are attended to, by text, instruction and text encoder.

    Kept as bfloat16: Gemma-2 overflows float16.
    """

    def __init__(self, folder: str | Path, encoder: str, instruction: str | None = None) -> None:
        """encoder: the `fingerprint` of the text encoder. Raises InputError if the folder cannot be made."""
        self.files = TensorFiles(folder)
        self.encoder, self.instruction = encoder, instruction

    @torch.no_grad()
    def fill(
        self,
        texts: Iterable[str],
        encode: Callable[[list[str]], tuple[Tensor, Tensor]],
        *,
        batch: int = BATCH,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Encode what is missing or damaged: texts -> states (B, L, C) and mask (B, L) of bool.

        Any error ends it: what is done by then is kept, and the next call goes on from there. Raises InputError for
        states that are not finite.
        """
        texts = list(dict.fromkeys(texts))
        missing = [text for text in texts if not self.has(text)]
        missing.sort(key=len)  # of like length, so that little is padded
        done = len(texts) - len(missing)
        if progress is not None:
            progress(done, len(texts))
        for start in range(0, len(missing), batch):
            some = missing[start : start + batch]
            states, mask = encode(some)
            for text, state, attended in zip(some, states, mask.bool()):
                self._write(text, state[attended])
            done += len(some)
            if progress is not None:
                progress(done, len(texts))

    def has(self, text: str) -> bool:
        return self.files.has(self._key(text))

    def read(self, text: str) -> Tensor:
        """(L, C), bfloat16. Raises CheckpointError if it is missing or damaged."""
        return self.files.read(self._key(text))

    def batch(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """States (B, L, C), zero where nothing is attended to, and mask (B, L) of bool. Raises CheckpointError."""
        states = [self.read(text) for text in texts]
        lengths = torch.tensor([len(state) for state in states])
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        return torch.nn.utils.rnn.pad_sequence(states, batch_first=True), mask

    def _write(self, text: str, state: Tensor) -> None:
        if not finite(state):
            raise InputError(f"the text encoder gives numbers that are not finite for {text!a:.80}")
        self.files.write(self._key(text), state.to(torch.bfloat16))

    def _key(self, text: str) -> Any:
        return ["text", FORM, text, self.instruction, self.encoder]


def all_texts(examples: Iterable[Example]) -> list[str]:
    """Every caption once, and the empty prompt."""
    return list(dict.fromkeys([EMPTY, *(text for example in examples for text, _ in example.captions)]))


def drawn_texts(examples: Sequence[Example], rows: Sequence[int], captions: Sequence[int]) -> list[str]:
    """The texts of a draw."""
    pairs = zip(rows, captions)
    return [EMPTY if caption < 0 else examples[row].captions[caption][0] for row, caption in pairs]
