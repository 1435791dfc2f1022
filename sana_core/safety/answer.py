"""The probability that ShieldGemma answers "Yes": the tokens of the question, and the softmax over two logits."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import CheckpointError, InputError, shortened
from ..text.instruction import Tokenizer
from .wording import question

MOST_TOKENS = 4096
"""Up to here the attention of every layer of Gemma-2 sees the whole text. SANA itself sees 300 tokens of a prompt."""
ANSWERS = ("Yes", "No")


def question_ids(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """The tokens of the question about a prompt: BOS first, <start_of_turn> and <end_of_turn> as single tokens.

    Raises InputError for a prompt that is too long to be read as a whole.
    """
    ids = tokenizer.encode(question(prompt))
    if len(ids) > MOST_TOKENS:
        raise InputError(
            f"the prompt {shortened(prompt, 80)!r} is too long to be checked: with the question it has {len(ids)} "
            f"tokens, at most {MOST_TOKENS} are read. Shorten it: SANA sees 300"
        )
    return ids


def answer_ids(tokenizer: Tokenizer) -> list[int]:
    """The tokens "Yes" and "No". Raises CheckpointError for a tokenizer that has them not as single tokens."""
    ids = []
    for answer in ANSWERS:
        found = tokenizer.encode(answer)[1:]  # without BOS
        if len(found) != 1:
            raise CheckpointError(
                f'its tokenizer has no token "{answer}": this model cannot answer. Choose ShieldGemma-2B with its own '
                "tokenizer"
            )
        ids += found
    return ids


def yes_probability(state: Tensor, rows: Tensor, soft_cap: float) -> float:
    """The probability of "Yes", of the two answers, in [0, 1].

    state: (width,), the last state after the final norm.  rows: (2, width), the embeddings of "Yes" and "No", which are
    the rows of the head too.  soft_cap: of the logits.  All of it in float32. Raises CheckpointError if the states are
    not finite: a check that gives no number must not let a prompt pass.
    """
    logits = soft_cap * torch.tanh((rows.float() @ state.float().to(rows.device)) / soft_cap)
    probability = logits.softmax(dim=0)[0].item()
    if not 0.0 <= probability <= 1.0:
        raise CheckpointError("the check of the prompt gave no number: the model's file is damaged, get it again")
    return probability
