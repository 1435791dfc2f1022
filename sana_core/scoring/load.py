"""Scorers by a text, as the command line and files name them."""

from __future__ import annotations

from pathlib import Path

import torch

from ..errors import InputError
from .clip import ClipScorer
from .imscore import MODELS, ImscoreScorer
from .nvila import NvilaScorer
from .scorer import Scorer

FORMS = f"clip:FOLDER, nvila:FOLDER or imscore:NAME ({', '.join(MODELS)})"


def load_scorer(text: str, device: torch.device | None = None, *, verifier_python: str | Path | None = None) -> Scorer:
    """A scorer by its kind and its folder or name, one of FORMS.

    device: of clip and imscore; NVILA chooses its own. verifier_python: of NVILA, see `NvilaScorer`. Raises InputError
    or CheckpointError, with what there is.
    """
    kind, _, name = text.partition(":")
    if kind not in ("clip", "nvila", "imscore") or not name:
        raise InputError(f"{text!r} is no scorer, expected one of {FORMS}")
    if kind == "nvila":
        return NvilaScorer(name, verifier_python)
    return ClipScorer(name, device) if kind == "clip" else ImscoreScorer(name, device)
