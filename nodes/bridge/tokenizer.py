"""Prompts to Gemma's tokens, through the host's tokenizer interface."""

from __future__ import annotations

import logging
from typing import Any

from torch import Tensor

from ...sana_core.checkpoint.read_json import tensor_bytes
from ...sana_core.errors import CheckpointError
from ...sana_core.text.detect import GEMMA_CONFIG_KEY, SPIECE_KEY
from ...sana_core.text.instruction import PAD_ID, PromptTokens, prompt_tokens
from ...sana_core.text.tokenizer import tokenizer_from_bytes

log = logging.getLogger("sana")
NAME = "gemma2_2b"
"""The host's name of this text encoder, in its token lists and weight keys."""
PADDING = -1
"""In token lists: padding, which no token attends to. A written-out <pad> is a token like any other."""
AUTO = "auto"
"""Instruction of a plain CLIP Text Encode: the default one, but none before an empty prompt."""


class SanaTokenizer:
    """The host's tokenizer interface over sana_core's prompt handling. Prompt weights such as (word:1.2) are prose to a
    language model.
    """

    def __init__(self, embedding_directory=None, tokenizer_data: dict[str, Tensor] | None = None) -> None:
        given = tokenizer_data or {}
        self.tensors = {key: given[key] for key in (SPIECE_KEY, GEMMA_CONFIG_KEY) if key in given}
        if SPIECE_KEY not in self.tensors:
            raise CheckpointError(
                f"this checkpoint has a Gemma-2 without tokenizer (no {SPIECE_KEY}): use gemma_2_2b_fp16.safetensors"
            )
        self.pieces = tokenizer_from_bytes(tensor_bytes(self.tensors[SPIECE_KEY]), SPIECE_KEY)

    def prompt(self, text: str, instruction: str | None = AUTO, kept_length: int | None = None) -> PromptTokens:
        """instruction: None, "default", "diffusers", an own text, or AUTO.  kept_length: cut or padded to so many
        tokens.
        """
        chosen = ("default" if text.strip() else None) if instruction == AUTO else instruction
        return prompt_tokens(self.pieces, text, chosen, kept_length=kept_length)

    def tokenize_with_weights(
        self,
        text: str,
        return_word_ids: bool = False,
        instruction: str | None = AUTO,
        kept_length: int | None = None,
        **_: Any,
    ) -> dict[str, list]:
        tokens = self.prompt(text, instruction, kept_length)
        if warning := tokens.cut_warning():
            log.warning(warning)
        kept, read = set(tokens.kept), len(tokens.ids) - tokens.num_padding
        ids = tokens.ids[:read] + [PADDING] * tokens.num_padding
        pairs = [(token, float(index in kept)) for index, token in enumerate(ids)]
        return {NAME: [[(*pair, index) for index, pair in enumerate(pairs)] if return_word_ids else pairs]}

    def untokenize(self, token_weight_pair: list) -> list:
        return [(pair, self.pieces.processor.id_to_piece(max(pair[0], PAD_ID))) for pair in token_weight_pair]

    def decode(self, token_ids: list[int], skip_special_tokens: bool = True) -> str:
        return self.pieces.decode(token_ids)

    def state_dict(self) -> dict[str, Tensor]:
        return self.tensors
