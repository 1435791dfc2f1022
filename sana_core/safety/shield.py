"""ShieldGemma (arXiv:2407.21772), which is a Gemma-2, by the code of SANA's text encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ..checkpoint.fit import naming
from ..device import pick_device, usable
from ..errors import CheckpointError
from ..pipeline.offload import on_device
from ..quantised.layers import QuantisedEmbedding
from ..text.gemma import GemmaTextEncoder
from ..text.load import load_text_encoder
from .answer import answer_ids, question_ids, yes_probability

Progress = Callable[[int, int], None]  # how much is done, and of how much


class Shield:
    """Prompts to probabilities. The weights live on the CPU and are on the device for the time of a call alone.

    encoder: on the CPU, with a tokenizer.  Raises CheckpointError for a tokenizer without the two answers.
    """

    def __init__(self, encoder: GemmaTextEncoder, device: torch.device) -> None:
        if encoder.tokenizer is None:
            raise CheckpointError("it has no tokenizer, so that it cannot read a prompt: give ShieldGemma's own")
        self.encoder, self.tokenizer, self.device = encoder, encoder.tokenizer, device
        self.answers = answer_ids(self.tokenizer)

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str], progress: Progress | None = None) -> list[float]:
        """How probable it is that each prompt is against the policy, in [0, 1].

        Each is read alone, so that no result depends on the others. Raises InputError for one that is too long.
        """
        found, questions = [], [question_ids(self.tokenizer, prompt) for prompt in prompts]
        with on_device(self.device, self.encoder):
            rows = embedding_rows(self.encoder.model.embed_tokens, torch.tensor(self.answers, device=self.device))
            for ids in questions:
                state = self.encoder(torch.tensor([ids], device=self.device))[0, -1]
                found.append(yes_probability(state, rows, self.encoder.config.final_logit_softcapping))
                if progress is not None:
                    progress(len(found), len(questions))
        return found


def load_shield(
    path: str | Path, *, tokenizer: str | Path | None = None, device: str | torch.device | None = None
) -> Shield:
    """ShieldGemma from whatever `load_text_encoder` reads: a Hugging Face folder, one file or several, quantised ones
    and GGUF too. It keeps the number type of its file where the device computes in it.

    tokenizer: needed if `path` holds none.  device: None takes the GPU if there is one. Raises CheckpointError for
    another model. A Gemma-2 that was not trained as a ShieldGemma looks the same and is not refused.
    """
    place = pick_device(device)
    try:
        encoder = load_text_encoder(path, tokenizer=tokenizer)
    except CheckpointError as error:
        raise CheckpointError(f"the check of prompts needs ShieldGemma-2B: {error}") from error
    with naming(str(path)):
        dtype = encoder.model.norm.weight.dtype
        return Shield(encoder.to(usable(dtype, place)), place)


def embedding_rows(embedding: nn.Module, ids: Tensor) -> Tensor:
    """Rows (N, width) of a table, float32, as they are in the file: newer versions of transformers scale those that
    they read.
    """
    if isinstance(embedding, QuantisedEmbedding):
        return embedding.quantised.rows(ids, torch.float32)
    assert isinstance(embedding, nn.Embedding)
    return embedding.weight[ids].float()
