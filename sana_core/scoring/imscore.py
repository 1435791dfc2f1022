"""Preference models of the package imscore, which are trained on what people chose (optional: pip install imscore).

The table names classes and repositories as imscore 0.0.11 has them. Weights come from Hugging Face at the first use.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..errors import InputError

MODELS: dict[str, tuple[str, str, str]] = {  # name -> module, class, repository
    "pickscore": ("pickscore", "PickScorer", "RE-N-Y/pickscore"),
    "hpsv2": ("hps", "HPSv2", "RE-N-Y/hpsv21"),
    "mps": ("mps", "MPS", "RE-N-Y/mpsv1"),
    "imagereward": ("imreward", "ImageReward", "RE-N-Y/ImageReward"),
    "cyclereward": ("cyclereward", "CycleReward", "NagaSaiAbhinay/CycleReward-Combo"),
    "vqascore": ("vqascore", "VQAScore", "RE-N-Y/clip-t5-xxl"),
    "pickscore-siglip": ("preference", "SiglipPreferenceScorer", "RE-N-Y/pickscore-siglip"),
    "aesthetic-laion": ("aesthetic", "LAIONAestheticScorer", "RE-N-Y/laion-aesthetic"),
    "aesthetic-shadow": ("aesthetic", "ShadowAesthetic", "RE-N-Y/aesthetic-shadow-v2"),
}


class ImscoreScorer:
    """A model of imscore by its name in MODELS. network: it; asked on the device that it is on."""

    def __init__(self, name: str, device: torch.device | None = None) -> None:
        self.network = _loaded(name).to(device)

    @torch.no_grad()
    def __call__(self, pictures: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
        pixels = torch.stack([torch.from_numpy(np.array(picture.convert("RGB"))) for picture in pictures])
        pixels = pixels.permute(0, 3, 1, 2).to(next(self.network.parameters()).device).float() / 255.0
        return self.network.score(pixels, list(prompts)).float().flatten().tolist()  # (B,) or (B, 1), by the model


def _loaded(name: str) -> Any:
    """Raises InputError."""
    if name not in MODELS:
        raise InputError(f"imscore has no scorer {name!r} here, expected one of {', '.join(MODELS)}")
    module, kind, repository = MODELS[name]
    try:
        made = getattr(import_module(f"imscore.{module}.model"), kind)
    except ImportError as error:
        raise InputError(f"the scorer imscore:{name} needs a package ({error}): pip install imscore") from error
    try:
        return made.from_pretrained(repository).eval()
    except Exception as error:  # of many types: no network, no room, files of another version
        raise InputError(f"the weights of imscore:{name} ({repository}) cannot be loaded ({error})") from error
