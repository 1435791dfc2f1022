"""The texts of many rows, each encoded once, in large batches.

What comes out of a text does not depend on its neighbours: all batches have the same number of texts, and their length
is that of the text itself, rounded up.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..pipeline.pipeline import SanaPipeline
from ..samplers.denoiser import EncodedText

TEXTS = 16  # of a batch
MULTIPLE = 32  # tokens; lengths are rounded up to it


class Text(NamedTuple):
    """length: how many tokens of it the transformer sees; None: as many as it has."""

    text: str
    instruction: str | None
    length: int | None = None


@torch.no_grad()
def encode_texts(pipeline: SanaPipeline, texts: Iterable[Text]) -> dict[Text, Tensor]:
    """States (L, C) of each text, on the CPU, in the number type of the transformer."""
    encoder = pipeline.text_encoder
    groups: dict[tuple[str | None, int, bool], list[Text]] = defaultdict(list)
    for text in dict.fromkeys(texts):
        (tokens,) = encoder.tokenize([text.text], instruction=text.instruction, kept_lengths=_lengths([text]))
        groups[text.instruction, rounded(len(tokens.ids)), tokens.num_padding > 0].append(text)
    found: dict[Text, Tensor] = {}
    with pipeline.turn(encoder):
        for (instruction, _, _), group in groups.items():
            for start in range(0, len(group), TEXTS):
                own = group[start : start + TEXTS]
                batch = own + own[-1:] * (TEXTS - len(own))
                states, mask = encoder.encode(
                    [text.text for text in batch],
                    instruction=instruction,
                    kept_lengths=_lengths(batch),
                    multiple=MULTIPLE,
                )
                states = states.to("cpu", pipeline.transformer.scale_shift_table.dtype)
                counts = mask.sum(1).tolist()
                found |= {text: states[index, :count].clone() for index, (text, count) in enumerate(zip(own, counts))}
    return found


def rounded(length: int) -> int:
    """A number of tokens, rounded up to a multiple of MULTIPLE."""
    return -(-length // MULTIPLE) * MULTIPLE


def batch_of(states: list[Tensor], length: int, device: torch.device) -> EncodedText:
    """States (L, C) of several texts as a batch (B, length, C), and its mask (B, length)."""
    padded = torch.stack([F.pad(item, (0, 0, 0, length - len(item))) for item in states])
    counts = torch.tensor([len(item) for item in states], device="cpu")
    mask = torch.arange(length, device="cpu") < counts[:, None]
    return padded.to(device), mask.to(device)


def _lengths(texts: list[Text]) -> list[int] | None:
    lengths = [text.length for text in texts if text.length is not None]
    return lengths if len(lengths) == len(texts) else None
