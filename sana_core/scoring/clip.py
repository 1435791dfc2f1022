"""The CLIP score: how near a picture and its prompt are in the space of a CLIP model (arXiv:2104.08718)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..errors import CheckpointError, InputError

NEEDED = "a folder of a CLIP model as transformers saves it: config.json, its weights, tokenizer and image processor"


class ClipScorer:
    """The cosine of the embeddings of picture and prompt, in -1..1: torchmetrics' CLIPScore without its factor 100.

    network: transformers' CLIPModel; it is asked on the device that it is on. A longer prompt than CLIP reads, 77
    tokens as a rule, is cut.
    """

    def __init__(self, folder: str | Path, device: torch.device | None = None) -> None:
        self.network, self.processor = load_clip_model(Path(folder))
        self.network.to(device)

    @torch.no_grad()
    def __call__(self, pictures: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
        inputs = self.processor(
            text=list(prompts),
            images=[picture.convert("RGB") for picture in pictures],
            return_tensors="pt",
            padding=True,
            truncation=True,
            max_length=self.network.config.text_config.max_position_embeddings,
        )
        found = self.network(**inputs.to(next(self.network.parameters()).device))
        return torch.cosine_similarity(found.image_embeds.float(), found.text_embeds.float()).tolist()


def load_clip_model(folder: Path) -> tuple[Any, Any]:
    """transformers' CLIPModel of a folder, on the CPU, and its processor. Nothing is downloaded.

    Raises InputError if transformers or the folder is missing, CheckpointError if the folder has no whole CLIP.
    """
    try:
        from transformers import CLIPModel, CLIPProcessor
        from transformers.utils import logging as transformers_log
    except ImportError as error:
        raise InputError(f"the CLIP score needs transformers ({error}): pip install transformers") from error
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} has no config.json: expected {NEEDED}")
    bars = transformers_log.is_progress_bar_enabled()
    transformers_log.disable_progress_bar()
    try:
        loaded: Any = CLIPModel.from_pretrained(folder, local_files_only=True, output_loading_info=True)
        network, report = loaded
        processor = CLIPProcessor.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # of many types, as its files are
        said = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{folder} cannot be loaded ({said}): expected {NEEDED}") from error
    finally:
        if bars:
            transformers_log.enable_progress_bar()
    if report["missing_keys"] or report["mismatched_keys"]:
        raise CheckpointError(f"{folder} lacks weights of a CLIP model: expected {NEEDED}")
    return network.eval(), processor
