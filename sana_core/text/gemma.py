"""Gemma-2 as SANA's text encoder: last hidden state after the final norm, logit soft cap 50 in eager attention.

The network is transformers' `Gemma2Model`, imported when a model is built.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..config import TextConfig
from ..errors import InputError
from ..quantised.formats import Format
from ..quantised.layers import hold_quantised
from .instruction import MAX_LENGTH, PAD_ID, PromptTokens, Tokenizer, prompt_tokens

if TYPE_CHECKING:
    from transformers import Gemma2Model

BOS_ID = 2
log = logging.getLogger("sana")
_defaults = threading.Lock()  # for who changes what the process has one of: the default number type, the random state


class GemmaTextEncoder(nn.Module):
    """Prompts to embeddings.

    state_dict: the tensors of a `Gemma2Model`; None makes shapes alone (meta device).  quantised: layers of it by name.
    """

    def __init__(
        self,
        config: TextConfig,
        tokenizer: Tokenizer | None = None,
        state_dict: dict[str, Tensor] | None = None,
        quantised: Mapping[str, Format] | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.model = build_gemma2(config, state_dict, quantised)
        self.eval().requires_grad_(False)

    def forward(self, input_ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Token ids (B, T), padded on the right -> hidden states (B, T, hidden_size) after the final norm.

        Attention is causal, so padding on the right cannot reach the real tokens, whichever ids it has. mask: (B, T) of
        bool, False for padding. It is needed only if the states of the padding are used: they then do not attend to one
        another.
        """
        with torch.device(input_ids.device):  # older versions of transformers make a tensor without naming its place
            return self.model(input_ids=input_ids, attention_mask=mask, use_cache=False).last_hidden_state

    def tokenize(
        self,
        prompts: list[str],
        *,
        instruction: str | None = None,
        max_length: int = MAX_LENGTH,
        kept_lengths: list[int] | None = None,
    ) -> list[PromptTokens]:
        """What `encode` sends for each prompt: exact text, token ids, kept positions, and what was cut off."""
        if isinstance(prompts, str) or not prompts or not all(isinstance(prompt, str) for prompt in prompts):
            raise InputError(f"prompts must be a list of at least one text, got {prompts!r:.80}")
        if self.tokenizer is None:
            raise InputError(
                "this text encoder has no tokenizer: it was loaded on the meta device, which only checks a file"
            )
        lengths = kept_lengths or [None] * len(prompts)
        if len(lengths) != len(prompts):
            raise InputError(f"{len(lengths)} kept lengths for {len(prompts)} prompts, expected one for each")
        pairs = zip(prompts, lengths)
        return [
            prompt_tokens(self.tokenizer, prompt, instruction, max_length, kept_length=length)
            for prompt, length in pairs
        ]

    @torch.no_grad()
    def encode(
        self,
        prompts: list[str],
        *,
        instruction: str | None = None,
        max_length: int = MAX_LENGTH,
        kept_lengths: list[int] | None = None,
        multiple: int = 1,
    ) -> tuple[Tensor, Tensor]:
        """Embeddings (B, L, hidden_size) and mask (B, L) bool, L the longest kept length of the batch, at most
        `max_length`.

        instruction: None, "default" (upstream's wording), "diffusers", or an own text; it is put before every prompt,
        empty ones too, and its embeddings are dropped. Prompts are used as they are: no lower-casing, no stripping.
        kept_lengths: one for each prompt, which is cut or padded to it, as `prompt_tokens` says. Rows outside the mask
        are zero. A prompt that is cut is warned of. multiple: the encoder reads a multiple of so many tokens, so that
        few lengths occur; what it adds for that reaches no token.
        """
        tokens = self.tokenize(prompts, instruction=instruction, max_length=max_length, kept_lengths=kept_lengths)
        for warning in dict.fromkeys(item.cut_warning() for item in tokens):
            if warning:
                log.warning(warning)
        device = self.model.embed_tokens.weight.device
        length = -(-max(len(item.ids) for item in tokens) // multiple) * multiple
        read = _pad([[1] * (len(item.ids) - item.num_padding) for item in tokens], 0, length)
        padded = any(item.num_padding for item in tokens)
        hidden = self(
            _pad([item.ids for item in tokens], PAD_ID, length).to(device), read.bool().to(device) if padded else None
        )
        kept = _pad([item.kept for item in tokens], 0).to(device)
        lengths = torch.tensor([len(item.kept) for item in tokens], device=device)
        mask = torch.arange(kept.shape[1], device=device) < lengths[:, None]
        embeddings = hidden.gather(1, kept[:, :, None].expand(-1, -1, hidden.shape[2]))
        return embeddings.masked_fill(~mask[:, :, None], 0.0), mask


def build_gemma2(
    config: TextConfig,
    state_dict: dict[str, Tensor] | None = None,
    quantised: Mapping[str, Format] | None = None,
) -> Gemma2Model:
    """transformers' Gemma-2 without its language-model head. It holds the given tensors themselves, not copies; nothing
    is initialised.  quantised: layers of the state dict that stay in few bits.
    """
    from transformers import Gemma2Config, Gemma2Model

    def build(config: TextConfig) -> Gemma2Model:
        # eager is the only attention with the soft cap in every version of transformers
        settings: dict[str, Any] = {
            **asdict(config),
            "attn_implementation": "eager",
            "use_cache": False,
            "pad_token_id": PAD_ID,
        }
        return Gemma2Model(Gemma2Config(**settings))

    with torch.device("meta"):
        model = build(config)
    if state_dict is None:
        return model
    # No file holds the rotary frequencies and the embedding scale, which the class computes: take them from the same
    # model without layers.
    with _defaults, torch.random.fork_rng(devices=[]), torch.device("cpu"), _default_dtype(torch.float32):
        bare = build(replace(config, num_hidden_layers=0, vocab_size=BOS_ID + 1))
    device = next(iter(state_dict.values())).device
    for name, buffer in bare.named_buffers():
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, buffer.to(device))
    layers, tensors = quantised or {}, dict(state_dict)
    hold_quantised(model, layers, tensors)
    model.load_state_dict(tensors, assign=True, strict=not layers)
    return model


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _pad(rows: list[list[int]], value: int, longest: int = 0) -> Tensor:
    """Lists of different length -> (B, longest) int64 on the CPU, filled up on the right. longest 0: as the longest."""
    longest = longest or max(map(len, rows))
    return torch.tensor([row + [value] * (longest - len(row)) for row in rows], dtype=torch.int64, device="cpu")
