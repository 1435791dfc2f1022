"""What the steps of a training are made of: encoded once, kept on disk, and put together for each step."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..samplers.denoiser import MASK_MULTIPLE
from ..text.instruction import MAX_LENGTH
from .batches import step_generator
from .data.draws import Draws
from .data.example import Example
from .data.latents import LatentCache
from .data.texts import EMPTY, TextCache
from .data.views import ConditionView
from .flow import logit_normal_times
from .objective import FlowBatch
from .processes import Processes
from .settings import TrainSettings

log = logging.getLogger("sana")
Progress = Callable[[str, int, int], None]  # what is done, how much of it, and of how much
EncodeTexts = Callable[[list[str], str | None], tuple[Tensor, Tensor]]  # texts, instruction -> states, mask
EncodePicture = Callable[[Tensor], Tensor]  # (1, 3, H, W) in -1..1 -> (1, 32, h, w) of about unit variance


@dataclass(frozen=True, kw_only=True)
class Encoders:
    """The networks that are needed before the training alone. text, picture: what tells their weights from others';
    open_text, open_picture: load one.
    """

    text: str
    picture: str
    open_text: Callable[[], EncodeTexts]
    open_picture: Callable[[], EncodePicture]
    instruction: str | None = "default"


class Material:
    """`material(step)` is the batch of a step, the same in every process and after every kill.

    prior_weight: of the loss of pictures for prior preservation.
    """

    def __init__(
        self,
        draws: Draws,
        caches: Caches,
        settings: TrainSettings,
        *,
        shift: float,
        prior_weight: float = 1.0,
    ) -> None:
        self.draws, self.caches, self.settings = draws, caches, settings
        self.shift, self.prior_weight = shift, prior_weight

    def __call__(self, step: int) -> FlowBatch:
        draw = self.draws(step)
        examples = [self.draws.examples[row] for row in draw.rows]
        generator = step_generator(self.settings.seed, step)
        latents = torch.stack([self.caches.latents.read(example, draw.size).float() for example in examples])
        control = self.caches.conditions
        texts = [
            None if caption < 0 else example.captions[caption][0] for example, caption in zip(examples, draw.captions)
        ]
        states, mask = padded([self.caches.state(text) for text in texts])
        own = len(examples) - draw.priors
        settings = self.settings
        return FlowBatch(
            latents=latents,
            noise=torch.randn(latents.shape, generator=generator),
            time=logit_normal_times(
                len(latents), generator, shift=self.shift, mean=settings.time_mean, std=settings.time_std
            ),
            states=states,
            mask=mask,
            weights=torch.tensor([1.0] * own + [self.prior_weight] * draw.priors),
            control=None
            if control is None
            else torch.stack([control.read(example, draw.size).float() for example in examples]),
        )


@dataclass(frozen=True, kw_only=True)
class Caches:
    """latents and conditions: of pictures. captions, and the empty prompt, which has no instruction before it."""

    latents: LatentCache
    captions: TextCache
    empty: TextCache
    conditions: LatentCache | None = None

    def state(self, text: str | None) -> Tensor:
        """(L, C); None or "": of the empty prompt."""
        return self.captions.read(text) if text else self.empty.read(EMPTY)


def open_caches(folder: Path, encoders: Encoders, *, conditions: ConditionView | None = None) -> Caches:
    """In `folder`, which is made."""
    return Caches(
        latents=LatentCache(folder, encoders.picture),
        captions=TextCache(folder, encoders.text, encoders.instruction),
        empty=TextCache(folder, encoders.text),
        conditions=None if conditions is None else LatentCache(folder, encoders.picture, conditions),
    )


def fill_texts(
    caches: Caches, texts: Iterable[str], encoders: Encoders, processes: Processes, progress: Progress
) -> None:
    """Encode the captions that are not there yet, and the empty prompt, each process its share."""
    wanted = {EMPTY: caches.empty, **{text: caches.captions for text in texts if text != EMPTY}}
    missing = [text for text, cache in wanted.items() if not cache.has(text)]
    own = missing[processes.index :: processes.count]
    if own:
        log.info("%d captions are encoded", len(own))
        encode = encoders.open_text()
        for cache, instruction in ((caches.captions, encoders.instruction), (caches.empty, None)):
            cache.fill(
                [text for text in own if wanted[text] is cache],
                lambda texts, instruction=instruction: encode(texts, instruction),
                progress=lambda done, total: progress("captions", done, total),
            )
    processes.wait()


def fill_pictures(
    caches: Caches, draws: Draws, encoders: Encoders, processes: Processes, progress: Progress
) -> dict[Example, str]:
    """Encode the pictures that are not there yet, each process its share. Returns those that cannot be used, with why,
    the same in all processes.
    """
    kinds = [("pictures", caches.latents), ("conditions", caches.conditions)]
    failed: dict[Example, str] = {}
    for label, cache in kinds:
        if cache is None:
            continue
        missing = [pair for pair in draws.wanted if not cache.has(draws.examples[pair[0]], pair[1])]
        own = missing[processes.index :: processes.count]
        if own:
            log.info("%d %s are encoded", len(own), label)
            encode = encoders.open_picture()
            cache.fill(draws.examples, own, encode, progress=lambda done, total, of=label: progress(of, done, total))
        processes.wait()
        for row, size in missing:  # what is still missing failed, in whichever process
            example = draws.examples[row]
            if not cache.has(example, size):
                failed[example] = "it cannot be decoded"
    return failed


def padded(states: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """States (L, C) of several texts -> (B, longest L, C) and their mask. The length is a multiple of 8, which
    attention with a mask takes as it is.
    """
    longest = min(-(-max(map(len, states)) // MASK_MULTIPLE) * MASK_MULTIPLE, max(MAX_LENGTH, *map(len, states)))
    mask = torch.arange(longest) < torch.tensor([len(state) for state in states])[:, None]
    batch = states[0].new_zeros(len(states), longest, states[0].shape[1])
    for row, state in zip(batch, states):
        row[: len(state)] = state
    return batch, mask
