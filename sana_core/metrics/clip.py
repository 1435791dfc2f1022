"""CLIP score: how well pictures fit their captions (arXiv:2104.08718), by torchmetrics with a local CLIP."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..scoring.clip import load_clip_model

EXAMPLE = "openai/clip-vit-large-patch14"


def load_clip(folder: Path | None, device: str | torch.device = "cpu") -> Any:
    """torchmetrics' CLIPScore with the model and processor of a folder. Nothing is downloaded.

    Raises InputError if a package or the folder is missing, CheckpointError if the folder has no CLIP.
    """
    if folder is None or not folder.is_dir():
        found = "no folder is named" if folder is None else f"{folder} is no folder"
        raise InputError(
            f"the CLIP score needs a CLIP in transformers' form, but {found}: download one, such as {EXAMPLE}, with "
            "`hf download`, and pass --clip FOLDER"
        )
    try:
        from torchmetrics.multimodal import CLIPScore
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision that is not of this PyTorch
        said = str(error).partition(chr(10))[0][:200]
        raise InputError(
            f"the CLIP score needs torchmetrics and transformers ({said}): pip install torchmetrics==1.9.0 "
            "transformers, and beside torch-fidelity the torchvision of your PyTorch"
        ) from error
    model, processor = load_clip_model(folder)
    for name in ("get_image_features", "get_text_features"):
        setattr(model, name, _tensor(getattr(model, name)))
    return CLIPScore(model_name_or_path=lambda: (model, processor)).to(device)


def _tensor(method: Callable[..., Any]) -> Callable[..., Tensor]:
    """Features as torchmetrics 1.9 expects them: transformers 5 gives them inside an output."""

    def features(*args: Any, **options: Any) -> Tensor:
        made = method(*args, **options)
        return made if isinstance(made, Tensor) else made.pooler_output

    return features


@torch.no_grad()
def clip_score(metric: Any, couples: Iterable[tuple[Tensor, str]], batch: int) -> tuple[float, int]:
    """The score in 0..100, the mean over pictures (3, H, W) of uint8 with captions; and of how many pictures.

    A caption longer than the model can read is cut. Raises InputError without any couple.
    """
    device = metric.model.device
    metric.reset()
    some: list[tuple[Tensor, str]] = []
    count = 0

    def update() -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Encountered caption longer")
            metric.update([picture.to(device) for picture, _ in some], [caption for _, caption in some])

    for couple in couples:
        some.append(couple)
        count += 1
        if len(some) == batch:
            update()
            some = []
    if some:
        update()
    if not count:
        raise InputError("no picture has a caption: write NAME.txt or NAME.json beside NAME.png, or leave out clip")
    return float(metric.compute()), count
