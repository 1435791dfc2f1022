"""The transformer and its text encoder trained as one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..config import TextConfig, TransformerConfig
from ..text.gemma import GemmaTextEncoder
from ..transformer.model import SanaTransformer
from .flow import TIMESTEPS, flow_matching_loss
from .networks import initial_transformer, seeded
from .text import AttributeHeads, TokenBatch, initial_text_encoder, kept_states, next_token_loss


@dataclass(frozen=True, kw_only=True)
class CaptionBatch:
    """Captions, the number of the picture each asks for, and what they say of it by attribute ({name: (B,)}, -1: not told)."""

    tokens: TokenBatch
    pictures: Tensor
    attributes: Mapping[str, Tensor]

    def to(self, device: str | torch.device) -> CaptionBatch:
        return CaptionBatch(
            tokens=self.tokens.to(device),
            pictures=self.pictures.to(device, non_blocking=True),
            attributes={name: values.to(device, non_blocking=True) for name, values in self.attributes.items()},
        )


class TextToLatent(nn.Module):
    """The two networks to ship, `text` and `transformer`, and the heads that exist in training only."""

    def __init__(self, text: GemmaTextEncoder, transformer: SanaTransformer, heads: AttributeHeads) -> None:
        super().__init__()
        self.text, self.transformer, self.heads = text, transformer, heads

    def losses(self, batch: CaptionBatch, latents: Tensor, generator: torch.Generator, *, repeats: int, shift: float) -> dict[str, Tensor]:
        """ "flow" (matching), "attribute" and "language".

        latents: (B, 32, h, w) of the batch's pictures; repeats: times and noises drawn for each caption, whose text is encoded once.
        """
        hidden = self.text(batch.tokens.ids)
        states = kept_states(hidden, batch.tokens)
        context, mask = (x.repeat_interleave(repeats, dim=0) for x in (states, batch.tokens.mask))

        def velocity(x: Tensor, time: Tensor) -> Tensor:
            return self.transformer(x, time * TIMESTEPS, context, mask)

        embedding = self.text.model.embed_tokens.weight
        return {
            "flow": flow_matching_loss(velocity, latents.repeat_interleave(repeats, dim=0), generator, shift=shift),
            "attribute": self.heads(states, batch.tokens, batch.attributes),
            "language": next_token_loss(hidden, batch.tokens, embedding),
        }


def initial_text_to_latent(text: TextConfig, transformer: TransformerConfig, attributes: Mapping[str, int], seed: int) -> TextToLatent:
    """Everything from scratch; attributes: {name: number of values}."""
    with seeded(seed):
        heads = AttributeHeads(text.hidden_size, attributes)
    return TextToLatent(initial_text_encoder(text, seed), initial_transformer(transformer, seed), heads)
