"""What is verified: files, device, number types; and the inputs, which are the same for both sides."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from ..config import SamplingDefaults, TransformerConfig
from ..device import free_memory
from ..latents import noise
from ..samplers.denoiser import EncodedText
from ..sources import PipelineFiles

Told: TypeAlias = Callable[[str], None]
Outputs: TypeAlias = dict[str, Tensor]
"""What a network makes, by name: float32, on the CPU."""
PROMPTS = ("a small white cat in a red hat sits on a wooden table", "blurry")
SEED = 20
CELLS = (8, 12)  # of the latents in comparisons: 256 x 384 pixels
STEPS = 4
PICTURE = (CELLS[0] * 32, CELLS[1] * 32)
MARGIN = 1.2  # of memory, for what is computed beside the weights


@dataclass(frozen=True, kw_only=True)
class Setup:
    """dtype: of the transformer as it runs.  chosen: what is asked of `load_pipeline`, None for the file's own.
    companions: of autoencoder and text encoder.  config, sampling: as they were detected.
    """

    files: PipelineFiles
    device: torch.device
    dtype: torch.dtype
    companions: torch.dtype
    chosen: torch.dtype | None
    config: TransformerConfig
    sampling: SamplingDefaults
    variant: str | None = None
    trained_precision: str | None = None
    fast: str = "auto"
    offload: bool = False

    @property
    def controlnet(self) -> Path | None:
        return self.files.controlnet


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Of the transformer, on the CPU in float32. text: states of two prompts (2, L, C) and their mask."""

    text: Tensor
    mask: Tensor

    @property
    def latent(self) -> Tensor:
        return noise((2, 32, *CELLS), SEED)

    @property
    def control(self) -> Tensor:
        return noise((2, 32, *CELLS), SEED + 1)

    @property
    def timestep(self) -> Tensor:
        return torch.tensor([900.0, 250.0])

    @property
    def guidance(self) -> Tensor:
        return torch.tensor([4.5, 2.0])

    @property
    def start(self) -> Tensor:
        return noise((1, 32, *CELLS), SEED + 2)

    def step_noise(self) -> list[Tensor]:
        return [noise((1, 32, *CELLS), SEED + 3 + index) for index in range(STEPS)]

    def prompt(self, index: int, place: torch.device, dtype: torch.dtype) -> EncodedText:
        """One of the prompts without its padding."""
        kept = self.mask[index]
        return self.text[index][kept][None].to(place, dtype), None


@dataclass
class Read:
    """What our text encoder made of the prompts: token ids and their mask, and the states for the transformer."""

    ids: Tensor | None = None
    mask: Tensor | None = None
    inputs: Inputs | None = None


def random_text(channels: int) -> Inputs:
    """Text states that no text encoder made, for when there is none."""
    mask = torch.ones(2, 24, dtype=torch.bool)
    mask[1, 9:] = False
    return Inputs(text=noise((2, 24, channels), SEED), mask=mask)


def place_for(parameters: int, dtype: torch.dtype, device: torch.device) -> torch.device | None:
    """Where a network of so many numbers fits in this type: the device, else the CPU, else nowhere."""
    needed = MARGIN * parameters * dtype.itemsize
    for place in dict.fromkeys((device, torch.device("cpu"))):
        free = free_memory(place)
        if free is None or needed <= free:
            return place
    return None


def release(device: torch.device) -> None:
    """Give back what the last network had."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def picture_and_latent() -> tuple[Tensor, Tensor]:
    """A picture of a few soft waves in -1..1, and a latent."""
    rows, columns = torch.linspace(0, 6, PICTURE[0])[:, None], torch.linspace(0, 9, PICTURE[1])[None]
    waves = torch.stack([(rows + columns * (channel + 1)).sin() for channel in range(3)])
    return waves[None] * 0.8, noise((1, 32, *CELLS), SEED)


def on_cpu(tensor: Tensor) -> Tensor:
    return tensor.float().cpu()
