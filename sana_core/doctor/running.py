"""How a network of a file is stored, runs and is sampled, and what it takes of a card, in words."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoint.detect import Detected
from ..checkpoint.files import Checkpoint
from ..checkpoint.weights import quantised_layers
from ..config import SamplingDefaults, TransformerConfig
from ..precision import dtype_name, run_dtypes
from ..sources import PipelineFiles, released_sampling

KEPT_FREE = 1.0  # GB of a card, by ComfyUI for the system and the screen


def runs_in(config: TransformerConfig, device: torch.device) -> str:
    return "float32" if device.type == "cpu" else dtype_name(run_dtypes(config, device)[0])


def takes(gigabytes: float | None, device: torch.device) -> list[str]:
    """How much of a card it takes, and whether this one has it."""
    if gigabytes is None:
        return []
    said = f"takes {gigabytes} GB of a card in 16 bits (counted)"
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device).total_memory / 1e9
        fits = gigabytes + KEPT_FREE < card
        more = "" if fits else ": too little, since 1 GB is kept free. docs/quantised.md has smaller files"
        said += f"; this one has {card:.1f} GB{more}"
    return [said]


def stored_as(tensors: dict[str, Tensor]) -> tuple[str, dict[str, int]]:
    """The number types of the weights in words, and how many layers have which quantised format."""
    layers = quantised_layers(tensors)
    formats = dict(Counter(form.name for form in layers.values()))
    plain = Counter(
        dtype_name(tensor.dtype)
        for key, tensor in tensors.items()
        if key.endswith("weight") and key.rpartition(".")[0] not in layers and tensor.is_floating_point()
    )
    words = [f"{name} ({counted(count, 'layer')})" for name, count in formats.items()]
    return ", ".join([*words, *(name for name, _ in plain.most_common())]), formats


def sampled(checkpoint: Checkpoint, path: Path, detected: Detected) -> tuple[SamplingDefaults, str]:
    """How it is sampled, and what says so. In a whole diffusers pipeline the scheduler beside it has a say."""
    if "sampling" in checkpoint.metadata:
        return detected.sampling, "as its file states"
    scheduler = path.parent / "scheduler" / "scheduler_config.json"
    if path.is_dir() and scheduler.is_file():
        files = PipelineFiles(transformer=path, autoencoder=path, text_encoder=path, scheduler=scheduler)
        return released_sampling(files, detected.config, None), "by the scheduler beside it"
    return detected.sampling, "as this release is sampled"


def counted(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def sampling_words(sampling: SamplingDefaults) -> str:
    return (
        f"{sampling.steps} steps, cfg {sampling.guidance_scale:g}, shift {sampling.shift:g}, {sampling.sampler}, "
        f"{sampling.width}x{sampling.height}"
    )
