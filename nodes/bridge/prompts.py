"""Prompts on their way through the host's samplers: text states that run as one batch, and what the model remembers of
them from step to step.

In each step the host repeats the text states of each prompt for its pictures, joins those of several prompts to one
tensor, and calls the model with that. Here the joined tensor is made once and given out again, and what belongs to it,
a `Joined`, is an attribute of it. So another tensor, whoever made it, is a new prompt to the model. All of it lives as
long as the conditioning of one run.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from itertools import count
from typing import Any

import comfy.conds
import comfy.utils
import torch
import torch.nn.functional as F
from torch import Tensor

from ...sana_core.samplers.denoiser import EncodedText, batch_contexts
from ...sana_core.transformer.caption import Caption
from ...sana_core.transformer.replay import Predict, Replay, is_heard

TOKEN_MULTIPLE = 32
MOST_JOINED = 4  # of one prompt: alone, with the others of a step, and a change of those
JOINED = "sana_joined"  # the attribute of a tensor
NUMBERS = count()


class Prompt:
    """Text states (B, L, C) of one conditioning and their mask (B, L) of 0 and 1, padded to a multiple of 32 tokens.

    watched: code of other nodes runs before the model and may change what `conds` gives in place.
    """

    def __init__(self, states: Tensor, mask: Tensor, *, watched: bool = False) -> None:
        self.states, self.mask, self.watched = states, mask, watched
        counts = mask.bool()
        last = int((counts.any(dim=0) * torch.arange(1, counts.shape[1] + 1, device=counts.device)).max())
        counts = counts[:, : last or None]  # without what counts for nobody; all of it if nothing counts
        self.text: EncodedText = states[:, : last or None], None if counts.all() else counts
        self.number = next(NUMBERS)
        self._joined: dict[Hashable, tuple[Tensor, Tensor]] = {}

    def conds(self) -> tuple[TextCond, TextCond]:
        """The states and the mask as the host takes them."""
        given = (part.clone() if self.watched else part for part in (self.states, self.mask))
        states, mask = (TextCond(part, self) for part in given)
        return states, mask

    def is_of(self, cond: Tensor) -> bool:
        """Does a repetition of the states or of the mask still hold what it held?"""
        part = self.states if cond.ndim == 3 else self.mask
        return not self.watched or torch.equal(cond, repeated(part, len(cond)))

    def joined(self, others: Sequence[Prompt], pictures: int) -> tuple[Tensor, Tensor]:
        """This prompt and others as one batch, each for that many pictures: states (B, L, C) and mask (B, L)."""
        key = (*(prompt.number for prompt in others), pictures)
        if key not in self._joined or getattr(self._joined[key][0], JOINED).spoiled:
            while len(self._joined) >= MOST_JOINED:
                del self._joined[next(iter(self._joined))]
            self._joined[key] = joined([self, *others], pictures)
        return self._joined[key]


def joined(prompts: Sequence[Prompt], pictures: int) -> tuple[Tensor, Tensor]:
    """States (B, L, C) and mask (B, L) of several prompts, each for that many pictures; a `Joined` is on the states."""
    states = together([prompt.states for prompt in prompts], pictures)
    mask = together([prompt.mask for prompt in prompts], pictures)
    parts = [(prompt.states, prompt.mask) for prompt in prompts]
    setattr(states, JOINED, Joined(parts, mask, [prompt.text for prompt in prompts], pictures))
    return states, mask


class Joined:
    """What belongs to the states of several prompts that run as one batch. It does not hold those states, or the two
    would keep one another alive.

    parts: states and mask of each prompt.  mask: of the batch.  texts: the prompts without what counts for nobody.
    """

    def __init__(
        self, parts: Sequence[tuple[Tensor, Tensor]], mask: Tensor, texts: Sequence[EncodedText], pictures: int
    ) -> None:
        self.parts, self.mask, self.texts, self.pictures = parts, mask, texts, pictures
        self.spoiled = False  # another node changed the states in place: the next step needs new ones
        self._caption: tuple[Hashable, Caption] | None = None
        self._replay: Predict | None = None

    def caption(self, network: Any, weights: Hashable, options: dict[str, Any]) -> Caption:
        """What the model made of these prompts with the same weights, or a new caption.

        weights: equal as long as the weights are.  options: of this step, for the host's attention.
        """
        if self._caption is None or self._caption[0] != weights:
            self._caption = self._replay = None  # the old ones need not be held beside the new ones
            self._caption = weights, network.caption(*batch_contexts(self._rows()), remember=True)
        return self._caption[1].passing(options)

    def replay(self, predict: Predict, network: torch.nn.Module) -> Predict:
        """Predictions for the caption that are replayed as CUDA graphs after a few steps."""
        if self._replay is None:
            self._replay = predict if is_heard(network) else Replay(predict)
        return self._replay

    def forget_recording(self) -> None:
        """Weights may have moved: what was recorded is not to be used again."""
        self._replay = None

    def is_of(self, states: Tensor, mask: Any) -> bool:
        """Do these states and this mask hold what they held at first? To ask where other nodes' code had them."""
        numbers, counts = (together(part, self.pictures) for part in zip(*self.parts))
        self.spoiled = not (torch.equal(states, numbers) and torch.equal(mask, counts))
        return not self.spoiled

    def _rows(self) -> list[EncodedText]:
        """One row for each prompt; if a conditioning brings prompts of its own for each picture, for each picture."""
        if all(len(states) == 1 for states, _ in self.texts):
            return list(self.texts)
        return [
            (repeated(states, self.pictures), None if mask is None else repeated(mask, self.pictures))
            for states, mask in self.texts
        ]


def together(parts: Sequence[Tensor], pictures: int) -> Tensor:
    """Parts (B, L, C) or (B, L) below one another, each for that many pictures, padded to the longest."""
    length = max(part.shape[1] for part in parts)
    return torch.cat([repeated(pad_tokens(part, length), pictures) for part in parts])


class TextCond(comfy.conds.CONDRegular):
    """Text states (B, L, C) or their mask (B, L). Run together, prompts are padded to the longest of them with masked
    zeros.  prompt: where they come from, None once another node has changed them.
    """

    def __init__(self, cond: Tensor, prompt: Prompt | None = None) -> None:
        super().__init__(cond)
        self.prompt = prompt

    @property
    def cond(self) -> Tensor:
        return self._cond

    @cond.setter
    def cond(self, cond: Tensor) -> None:
        """Another node puts states of its own here."""
        self._cond, self.prompt = cond, None

    def process_cond(self, batch_size: int, **_: Any) -> TextCond:
        return TextCond(repeated(self.cond, batch_size), self.prompt)

    def can_concat(self, other: Any) -> bool:
        if not isinstance(other, TextCond):
            return False
        alike = [(cond.shape[:1], cond.shape[2:], cond.device) for cond in (self.cond, other.cond)]
        return alike[0] == alike[1]

    def concat(self, others: list[TextCond]) -> Tensor:
        given = (self, *others)
        prompts = [prompt for cond in given if (prompt := cond.prompt) is not None and prompt.is_of(cond.cond)]
        if len(prompts) == 1 + len(others):
            states, mask = prompts[0].joined(prompts[1:], len(self.cond))
            return states if self.cond.ndim == 3 else mask
        conds = [self.cond, *(other.cond for other in others)]
        length = max(cond.shape[1] for cond in conds)
        return torch.cat([pad_tokens(cond, length) for cond in conds])


def repeated(cond: Tensor, batch_size: int) -> Tensor:
    return comfy.utils.repeat_to_batch_size(cond, batch_size)


def pad_tokens(cond: Tensor, length: int) -> Tensor:
    """(B, L, C) or (B, L) -> `length` tokens, the further ones 0."""
    return F.pad(cond, (0, 0) * (cond.ndim - 2) + (0, length - cond.shape[1]))


def padded_context(context: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Text states (B, L, C) and mask (B, L) or None -> both padded with masked zeros to a multiple of 32 tokens.

    Few different lengths mean few recompilations, and aligned masks are what fast attention kernels take. A mask
    decides about the tokens that it has. About all others, and where one mask came along for several prompts,
    `written_tokens` decides: the conditioning was lengthened or put together by a node that does not know of masks.
    """
    batch, length = context.shape[:2]
    counts = written_tokens(context)
    if mask is not None:
        known = mask.to(context.device).long().flatten(1)[:, :length]
        of_each = len(known) == batch
        known = comfy.utils.repeat_to_batch_size(known, batch)
        covered = known.shape[1]
        head = known if of_each else known * counts[:, :covered]
        counts = torch.cat([head, counts[:, covered:]], dim=1)
    padded = math.ceil(length / TOKEN_MULTIPLE) * TOKEN_MULTIPLE
    return pad_tokens(context, padded), pad_tokens(counts, padded)


def written_tokens(context: Tensor) -> Tensor:
    """(B, L, C) -> (B, L) of 1 for tokens and 0 for padding: states of zeros at the end of a prompt are padding.

    A prompt of zeros alone is meant as it is (Conditioning Zero Out): all its tokens count.
    """
    length = context.shape[1]
    positions = torch.arange(1, length + 1, device=context.device)
    last = (context.ne(0).any(dim=-1) * positions).amax(dim=1, keepdim=True)
    return (positions <= torch.where(last == 0, length, last)).long()
