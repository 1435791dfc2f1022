"""Captions for training: token batches, caption dropout, and the losses that teach the text encoder directly.

The real Gemma-2 arrives trained. A text encoder that begins from scratch learns far more slowly from the picture loss
alone than the transformer does; it gets two losses of its own.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sana_core.config import TextConfig
from sana_core.text.gemma import PAD_ID, GemmaTextEncoder, build_gemma2
from sana_core.text.instruction import PromptTokens

IGNORED = -1  # an attribute that a caption does not tell


@dataclass(frozen=True, kw_only=True)
class TokenBatch:
    """ids (B, T) padded on the right, lengths (B,); kept (B, L): positions whose states the transformer sees, mask (B,
    L) of bool.
    """

    ids: Tensor
    lengths: Tensor
    kept: Tensor
    mask: Tensor

    def to(self, device: str | torch.device) -> TokenBatch:
        moved = (tensor.to(device, non_blocking=True) for tensor in (self.ids, self.lengths, self.kept, self.mask))
        return TokenBatch(**dict(zip(("ids", "lengths", "kept", "mask"), moved)))


def token_batch(items: Sequence[PromptTokens]) -> TokenBatch:
    """Tokenized prompts of any lengths as one batch."""
    kept_lengths = torch.tensor([len(item.kept) for item in items])
    kept = _padded([item.kept for item in items], 0)
    return TokenBatch(
        ids=_padded([item.ids for item in items], PAD_ID),
        lengths=torch.tensor([len(item.ids) for item in items]),
        kept=kept,
        mask=torch.arange(kept.shape[1]) < kept_lengths[:, None],
    )


def dropped(count: int, share: float, rng: random.Random) -> list[bool]:
    """Which of `count` captions become empty, each with probability `share`: what classifier-free guidance is learned
    from.
    """
    return [rng.random() < share for _ in range(count)]


def initial_text_encoder(config: TextConfig, seed: int) -> GemmaTextEncoder:
    """A Gemma-2 to train, with random weights: normal of deviation 0.02, norms at one. It has no tokenizer."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {key: tensor.shape for key, tensor in build_gemma2(config).state_dict().items()}
    weights = {  # Gemma's norms multiply by 1 + weight
        key: torch.zeros(shape) if len(shape) == 1 else 0.02 * torch.randn(shape, generator=generator)
        for key, shape in shapes.items()
    }
    return GemmaTextEncoder(config, state_dict=weights).requires_grad_(True).train()


def kept_states(hidden: Tensor, batch: TokenBatch) -> Tensor:
    """Hidden states (B, T, C) -> those of BOS and the caption's own tokens (B, L, C), without the instruction's."""
    return hidden.gather(1, batch.kept[:, :, None].expand(-1, -1, hidden.shape[2]))


def next_token_loss(hidden: Tensor, batch: TokenBatch, embedding: Tensor) -> Tensor:
    """Language modelling: cross entropy of every next token, with the embedding (vocabulary, C) as the output layer.

    hidden: (B, T, C) of causal attention.
    """
    positions = torch.arange(batch.ids.shape[1], device=batch.ids.device)
    targets = batch.ids.masked_fill(positions >= batch.lengths[:, None], IGNORED)[:, 1:]
    return _cross_entropy(hidden[:, :-1].flatten(0, 1) @ embedding.T, targets.flatten())


class AttributeHeads(nn.Module):
    """Reads off a caption's last state what the picture shows: which thing, which background, and so on.

    One linear layer per attribute, {name: number of values}. Its rows are learned descriptions of the values, its loss
    a contrast of the right one with all others (InfoNCE, arXiv:1807.03748). The heads exist in training only.
    """

    def __init__(self, hidden_size: int, attributes: Mapping[str, int]) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({name: nn.Linear(hidden_size, values) for name, values in attributes.items()})

    def forward(self, states: Tensor, batch: TokenBatch, values: Mapping[str, Tensor]) -> Tensor:
        """Kept states (B, L, C) and each attribute's values (B,), IGNORED where a caption does not tell -> mean cross
        entropy, a scalar.
        """
        last = states[torch.arange(len(states), device=states.device), batch.mask.sum(dim=1) - 1]
        losses = [_cross_entropy(head(last), values[name]) for name, head in self.heads.items()]
        return torch.stack(losses).mean()


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over the targets that count; 0 if none does."""
    total = F.cross_entropy(logits.float(), targets, ignore_index=IGNORED, reduction="sum")
    return total / (targets != IGNORED).sum().clamp(min=1)


def _padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows])
