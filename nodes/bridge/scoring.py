"""Scorers in the host, and the best of a batch of pictures.

A SANA_SCORER is any function (pictures, prompts) -> scores, see `sana_core/scoring/scorer.py`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.model_patcher
import folder_paths
import numpy as np
import torch
from comfy_execution.graph_utils import ExecutionBlocker
from PIL import Image
from torch import Tensor, nn

from ...sana_core.errors import InputError, printable, safe_line, shortened
from ...sana_core.pictures.images import to_pil
from ...sana_core.scoring import Scorer, Selection, load_scorer, select
from ...sana_core.scoring.imscore import MODELS
from ...sana_core.scoring.nvila import NvilaScorer
from ...sana_core.scoring.plot import score_plot
from ...sana_core.scoring.select import Drawn
from .paths import SCORERS
from .progress import counted, show

NONE = f"none found in models/{SCORERS}"
IMSCORE = "imscore: "  # before the name of a model
VERIFIER_BYTES = 8e9  # of the card, for NVILA's process: 2 billion parameters in 16 bits, and what they compute


def scorer_names() -> list[str]:
    """What the loader offers: "clip: NAME" and "nvila: NAME" for folders, "imscore: NAME" where that is installed."""
    models = [f"{IMSCORE}{name}" for name in MODELS] if find_spec("imscore") else []
    return [*_folders(), *models] or [NONE]


def _folders() -> dict[str, Path]:
    """The folders of scorers by their names in the list."""
    roots, _ = folder_paths.folder_names_and_paths.get(SCORERS, ((), None))
    configs = [path for root in roots for path in sorted(Path(root).glob("*/config.json"))]
    return {f"{kind}: {path.parent.name}": path.parent for path in reversed(configs) if (kind := _kind(path))}


def _kind(config: Path) -> str | None:
    """CLIP by its type; NVILA by the code that it brings along."""
    try:
        values = json.loads(config.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(values, dict):
        return None
    return "clip" if values.get("model_type") == "clip" else "nvila" if "auto_map" in values else None


def choice_error(name: Any) -> str | None:
    """What is wrong with a chosen scorer, for the host's check before a picture is drawn; None if nothing is.

    A model of imscore is always right here: its loader says what is missing.
    """
    name = str(name)  # anything, over the API
    if name in _folders() or name.startswith(IMSCORE):
        return None
    called = "" if name == NONE else f" {shortened(printable(name))}"
    return (
        f"there is no scorer{called}: put the folder of a CLIP model, with config.json, into models/{SCORERS} and "
        "press R, or choose another"
    )


def host_scorer(name: str) -> Scorer:
    """The scorer of that name in the list. Raises InputError, CheckpointError."""
    if said := choice_error(name):
        raise InputError(said)
    if name.startswith(IMSCORE):
        return OnCard(load_scorer(f"imscore:{name.removeprefix(IMSCORE)}"))
    folder = _folders()[name]
    is_clip = name.startswith("clip: ")
    return OnCard(load_scorer(f"clip:{folder}")) if is_clip else OwnProcess(NvilaScorer(folder, start=False))


class OnCard:
    """A scorer of this process. The host loads its network when it is asked, and takes it off the card for others."""

    def __init__(self, scorer: Any) -> None:
        self.scorer = scorer
        held = nn.ModuleList([scorer.network])  # the host sets `device`, which transformers' networks do not let it
        device, offload = (
            comfy.model_management.get_torch_device(),
            comfy.model_management.text_encoder_offload_device(),
        )
        self.patcher = comfy.model_patcher.ModelPatcher(held, load_device=device, offload_device=offload)

    def __call__(self, pictures: Sequence[Image.Image], prompts: Sequence[str]) -> Sequence[Any]:
        comfy.model_management.load_models_gpu([self.patcher], force_full_load=True)
        return self.scorer(pictures, prompts)


class OwnProcess:
    """NVILA. Its process gets room on the card, and ends with the node that asks."""

    def __init__(self, scorer: NvilaScorer) -> None:
        self.scorer = scorer

    def __call__(self, pictures: Sequence[Image.Image], prompts: Sequence[str]) -> Sequence[Any]:
        if not self.scorer.runs:
            comfy.model_management.free_memory(VERIFIER_BYTES, comfy.model_management.get_torch_device())
        return self.scorer(pictures, prompts)


@dataclass(frozen=True, kw_only=True)
class Best:
    """images: (K, H, W, 3). latents: of them, or what keeps the nodes behind it from running. report: all scores, the
    best first. plot: (1, H, W, 3).
    """

    images: Tensor
    latents: Any
    report: str
    plot: Tensor


def best_of(images: Tensor | None, prompt: str, scorer: Any, keep: int, latents: dict[str, Any] | None = None) -> Best:
    """The best pictures of a batch (B, H, W, 3) in 0..1. Raises InputError; a scorer that fails costs no picture."""
    asked: Any = scorer
    if images is None:
        raise InputError("there are no images: connect a batch of pictures, such as that of VAE Decode")
    if not callable(scorer):
        raise InputError(f"scorer is {type(scorer).__name__}, expected that of Load SANA Scorer")
    if latents is not None and len(latents["samples"]) != len(images):
        raise InputError(f"{len(latents['samples'])} latents for {len(images)} images: connect those they were made of")

    colours = [0, 0, 0] if images.shape[-1] == 1 else [0, 1, 2]  # some nodes give grey pictures of one channel

    def draw(part: Sequence[int]) -> list[Drawn]:
        return [(picture, None) for picture in to_pil(images[list(part)][..., colours].movedim(-1, 1))]

    progress = counted("picture")
    try:
        found = select(
            draw, range(len(images)), prompt, asked, keep=keep, progress=lambda done: progress(done, len(images))
        )
    finally:
        if isinstance(scorer, OwnProcess):
            scorer.scorer.close()
    kept = [candidate.index for candidate in found.best]
    show(found.failures[-1] if found.failures else f"kept {', '.join(str(index + 1) for index in kept)}")
    plot = torch.from_numpy(np.asarray(score_plot([found.scores]), dtype=np.float32) / 255.0)[None]
    return Best(images=images[kept], latents=_chosen(latents, kept), report=report(found), plot=plot)


def report(found: Selection) -> str:
    """A line for each picture, the best first; those without a score last. Above them, what was wrong."""
    order = sorted(range(len(found.scores)), key=lambda index: _last_without(found.scores[index]))
    lines = [f"{rank}. picture {index + 1}: {_shown(found.scores[index])}" for rank, index in enumerate(order, 1)]
    return "\n".join([*map(safe_line, found.failures), *lines])


def _last_without(score: float | None) -> tuple[bool, float]:
    return score is None, 0.0 if score is None else -score


def _shown(score: float | None) -> str:
    return "no score" if score is None else f"{score:.6g}"


def _chosen(latents: dict[str, Any] | None, kept: list[int]) -> Any:
    """The latents of the kept pictures, with all that the host keeps beside them for each."""
    if latents is None:
        return ExecutionBlocker(None)
    return {name: _of(value, kept, len(latents["samples"])) for name, value in latents.items()}


def _of(value: Any, kept: list[int], count: int) -> Any:
    if not isinstance(value, (Tensor, list)) or len(value) != count:
        return value
    return value[kept] if isinstance(value, Tensor) else [value[index] for index in kept]
