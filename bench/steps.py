"""One step of a transformer with guidance, for counting its memory."""

from __future__ import annotations

import torch
from torch import Tensor

from sana_core.samplers.denoiser import make_denoiser
from sana_core.transformer.model import SanaTransformer

DTYPE = torch.bfloat16
TOKENS = 300  # of a prompt, and of the empty negative prompt beside it


def own_step(network: SanaTransformer, side: int, device: torch.device) -> None:
    """The forward alone. side: of the latent."""
    latent, text = zeros(2, 32, side, side, device=device), zeros(2, TOKENS, 2304, device=device)
    network(
        latent, torch.full((2,), 500.0, device=device), text, torch.ones(2, TOKENS, dtype=torch.bool, device=device)
    )


def kept_step(network: SanaTransformer, side: int, device: torch.device) -> None:
    """With the keys and values of the prompts kept, as pipeline and ComfyUI keep them over a run."""
    text = zeros(1, TOKENS, 2304, device=device), torch.ones(1, TOKENS, dtype=torch.bool, device=device)
    denoise = make_denoiser(network, text, text, guidance_scale=4.5)
    denoise(zeros(1, 32, side, side, device=device).float(), 0.5)


def zeros(*shape: int, device: torch.device) -> Tensor:
    return torch.zeros(shape, dtype=DTYPE, device=device)
