"""The text encoder trained to read captions, then the transformer and its text encoder trained as one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sana_core.config import TextConfig, TransformerConfig
from sana_core.text.gemma import GemmaTextEncoder
from sana_core.training.flow import TIMESTEPS, flow_matching_loss
from sana_core.training.networks import initial_transformer, seeded
from sana_core.transformer.model import SanaTransformer

from .initial import KIT
from .text_losses import AttributeHeads, TokenBatch, initial_text_encoder, kept_states, next_token_loss


@dataclass(frozen=True, kw_only=True)
class CaptionBatch:
    """Captions, the number of the picture each asks for, and what they say of it by attribute ({name: (B,)}, -1: not
    told).
    """

    tokens: TokenBatch
    pictures: Tensor
    attributes: Mapping[str, Tensor]

    def to(self, device: str | torch.device) -> CaptionBatch:
        return CaptionBatch(
            tokens=self.tokens.to(device),
            pictures=self.pictures.to(device, non_blocking=True),
            attributes={name: values.to(device, non_blocking=True) for name, values in self.attributes.items()},
        )


class CaptionReader(nn.Module):
    """A text encoder that learns what captions say before there are pictures, as the real Gemma-2 arrives trained."""

    def __init__(self, text: GemmaTextEncoder, heads: AttributeHeads) -> None:
        super().__init__()
        self.text, self.heads = text, heads

    def read(self, batch: CaptionBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The states that a transformer sees (B, L, C), and the losses "attribute" and "language"."""
        hidden = self.text(batch.tokens.ids)
        states = kept_states(hidden, batch.tokens)
        return states, {
            "attribute": self.heads(states, batch.tokens, batch.attributes),
            "language": next_token_loss(hidden, batch.tokens, self.text.model.embed_tokens.weight),
        }


class TextToLatent(CaptionReader):
    """The two networks to ship, `text` and `transformer`, and the heads that exist in training only."""

    def __init__(self, text: GemmaTextEncoder, transformer: SanaTransformer, heads: AttributeHeads) -> None:
        super().__init__(text, heads)
        self.transformer = transformer

    def losses(
        self, batch: CaptionBatch, latents: Tensor, generator: torch.Generator, *, repeats: int, shift: float
    ) -> dict[str, Tensor]:
        """ "flow" (matching), "attribute" and "language".

        latents: (B, 32, h, w) of the batch's pictures; repeats: times and noises drawn for each caption, whose text is
        encoded once.
        """
        states, losses = self.read(batch)
        context, mask = (x.repeat_interleave(repeats, dim=0) for x in (states, batch.tokens.mask))

        def velocity(x: Tensor, time: Tensor) -> Tensor:
            return self.transformer(x, time * TIMESTEPS, context, mask)

        return {
            "flow": flow_matching_loss(velocity, latents.repeat_interleave(repeats, dim=0), generator, shift=shift),
            **losses,
        }


def initial_caption_reader(text: TextConfig, attributes: Mapping[str, int], seed: int) -> CaptionReader:
    """From scratch; attributes: {name: number of values}."""
    with seeded(seed):
        heads = AttributeHeads(text.hidden_size, attributes)
    return CaptionReader(initial_text_encoder(text, seed), heads)


def initial_text_to_latent(reader: CaptionReader, transformer: TransformerConfig, seed: int) -> TextToLatent:
    """A transformer from scratch for a text encoder from scratch or trained."""
    return TextToLatent(reader.text, initial_transformer(transformer, seed, KIT), reader.heads)
