"""Batches of captions with the pictures they ask for: each a function of its step."""

from __future__ import annotations

import random

import torch

from sana_core.text.instruction import INSTRUCTIONS, PromptTokens, Tokenizer, prompt_tokens
from sana_core.training.batches import step_seed

from .captions import CaptionSource
from .joint import CaptionBatch
from .resolution import phase_at
from .scenes import Scene
from .sizes import Stage
from .text_losses import IGNORED, dropped, token_batch

EMPTY_SHARE = 0.1  # of the captions, for classifier-free guidance
INSTRUCTION_SHARE = 0.5  # of the others; the two wordings equally often


class CaptionBatches:
    """`batches(step)` -> captions of random scenes of a bank, tokenized. vague: share of the captions that name the
    thing alone.
    """

    def __init__(
        self,
        source: CaptionSource,
        bank: list[Scene],
        tokenizer: Tokenizer,
        stage: Stage,
        steps: int,
        seed: int,
        *,
        vague: float = 0.0,
    ) -> None:
        self.source, self.bank, self.tokenizer = source, bank, tokenizer
        self.stage, self.steps, self.seed, self.vague = stage, steps, seed, vague

    def __call__(self, step: int) -> CaptionBatch:
        rng = random.Random(step_seed(self.seed, step))
        count = phase_at(self.stage.phases, step, self.steps).batch
        pictures = [rng.randrange(len(self.bank)) for _ in range(count)]
        captions = [self.source.draw(self._told(self.bank[number], rng), rng) for number in pictures]
        empty = dropped(count, EMPTY_SHARE, rng)
        told = [caption.scene.attributes(len(self.source.concepts)) for caption in captions]
        return CaptionBatch(
            tokens=token_batch([self._tokens("" if gone else c.text, rng) for c, gone in zip(captions, empty)]),
            pictures=torch.tensor(pictures),
            attributes={
                name: torch.tensor([IGNORED if gone else values[name] for values, gone in zip(told, empty)])
                for name in told[0]
            },
        )

    def _told(self, scene: Scene, rng: random.Random) -> Scene:
        """What the caption tells of a scene."""
        return Scene(concept=scene.concept, style=scene.style) if rng.random() < self.vague else scene

    def _tokens(self, text: str, rng: random.Random) -> PromptTokens:
        """The empty prompt never has the instruction, as in sampling."""
        instruction = rng.choice(list(INSTRUCTIONS)) if text and rng.random() < INSTRUCTION_SHARE else None
        return prompt_tokens(self.tokenizer, text, instruction)
