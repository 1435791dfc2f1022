"""What is measured: the exported files of a training, its drawings and captions."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from sana_core.pipeline import SanaPipeline, load_pipeline

from .captions import Caption, evaluation_sets
from .command import Command
from .export import AUTOENCODER, CONTROLNET, TEXT, TRANSFORMER
from .retrieval import BATCH, Gallery, scores
from .stages import Pictured, pictured


@dataclass(kw_only=True)
class Evaluation:
    """The exported files of a training, how many captions of each set are drawn, with which seeds."""

    command: Command
    files: Path
    limit: int
    seeds: tuple[int, ...]

    def pipeline(
        self,
        transformer: str | Path = TRANSFORMER,
        dtype: torch.dtype = torch.float32,
        controlnet: bool = False,
        text: str | Path = TEXT,
    ) -> SanaPipeline:
        """Files are named from the folder of the exported ones, or by whole paths."""
        parts: dict[str, str | Path] = {"transformer": transformer, "autoencoder": AUTOENCODER, "text_encoder": text}
        parts |= {"controlnet": CONTROLNET} if controlnet else {}
        return load_pipeline(
            {part: self.files / name for part, name in parts.items()}, device=self.command.device, dtype=dtype
        )

    @cached_property
    def base(self) -> SanaPipeline:
        return self.pipeline()

    @cached_property
    def scenes(self) -> Pictured:
        return pictured(self.command)

    @cached_property
    def gallery(self) -> Gallery:
        return Gallery(self.base.autoencoder, self.scenes, self.command.size.pixels)

    @cached_property
    def sets(self) -> dict[str, list[Caption]]:
        """The captions of each split, at most `limit` of each, the same ones every time."""
        sets = evaluation_sets(self.scenes.concepts, self.scenes.splits, self.command.size.styles)
        return {
            name: random.Random(1).sample(captions, min(self.limit, len(captions))) for name, captions in sets.items()
        }

    def draw(self, made: SanaPipeline, prompts: list[str], seed: int, **settings) -> Tensor:
        """Pictures (B, 3, P, P) in -1..1, computed as the command says."""
        starts = range(0, len(prompts), BATCH)
        with self.command.autocast():
            parts = [
                made(prompts[start : start + BATCH], seed=seed + start, output="tensor", **settings) for start in starts
            ]
        return torch.cat([part for part in parts if isinstance(part, Tensor)]).to(self.command.device) * 2 - 1

    def scored(self, made: SanaPipeline, captions: list[Caption], **settings) -> list[dict[str, float]]:
        """Retrieval of drawn captions, one entry a seed."""
        texts, wanted = [caption.text for caption in captions], [caption.scene for caption in captions]
        return [scores(self.gallery, self.draw(made, texts, seed, **settings), wanted) for seed in self.seeds]
