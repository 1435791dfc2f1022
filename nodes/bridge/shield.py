"""ShieldGemma in the host: a CLIP of ours that is asked about a prompt. Loading and memory are the host's."""

from __future__ import annotations

from typing import Any

import torch

from ...sana_core.checkpoint.fit import naming
from ...sana_core.errors import InputError
from ...sana_core.safety import PromptCheck
from ...sana_core.safety.answer import answer_ids, question_ids, yes_probability
from . import progress
from .tokenizer import NAME, SanaTokenizer


def checked_prompt(clip: Any, prompt: str, threshold: float, action: str) -> tuple[str, float]:
    """The prompt that may be drawn, and how probable it is that the given one is against the policy.

    clip: ShieldGemma, by a loader of this pack.  action: "refuse" or "replace", see `PromptCheck`. Raises RefusedError.
    """
    found = prompt_probability(clip, prompt)
    progress.show(f"probability {found:.3f}, threshold {threshold:g}")
    check = PromptCheck(shield=lambda prompts, _: [found], threshold=threshold, action=action)
    return check.passed([prompt])[0], found


def prompt_probability(clip: Any, prompt: str) -> float:
    """As `Shield` gives it, in [0, 1]. Raises InputError for a CLIP of another kind and for a prompt that is too long,
    CheckpointError for a model that cannot answer.
    """
    if not isinstance(clip.tokenizer, SanaTokenizer):
        raise InputError(
            f"shield is a CLIP of another kind ({type(clip.cond_stage_model).__name__}): load ShieldGemma-2B with Load "
            "SANA Text Encoder (Gemma)"
        )
    with naming("shield"):
        answers = answer_ids(clip.tokenizer.pieces)
    ids = question_ids(clip.tokenizer.pieces, prompt)
    last_state = clip.clone()
    last_state.clip_layer(None)  # whatever CLIP Set Last Layer has set
    # of weight 0: read, but their states are left out
    pairs = [*((token, 0.0) for token in ids[:-1]), (ids[-1], 1.0)]
    state = last_state.encode_from_tokens({NAME: [pairs]})[0, -1]
    model = getattr(clip.cond_stage_model, NAME).transformer.model
    rows = model.embed_tokens(torch.tensor(answers, device=clip.patcher.load_device), out_dtype=torch.float32)
    if not getattr(model, "normalize_in", False):  # where the host scales inside of the table, not behind it
        rows = rows / model.config.hidden_size**0.5
    return yes_probability(state, rows, model.config.final_logit_softcapping)
