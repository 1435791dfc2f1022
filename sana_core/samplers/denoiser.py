"""The transformer and its prompts as the `denoise(x, sigma) -> x0` that the solvers call."""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import TransformerConfig
from .flow_euler import Denoise
from .guidance import classifier_free_guidance

TIMESTEPS = 1000  # the transformer's time is 1000 * sigma


class VelocityModel(Protocol):
    """What the denoiser needs of a transformer; `SanaTransformer` is one."""

    config: TransformerConfig

    def prepare_context(self, context: Tensor, context_mask: Tensor | None = None) -> Any: ...

    def __call__(self, latent: Tensor, timestep: Tensor, context: Any, *, guidance: Tensor | None = None) -> Tensor: ...


def make_denoiser(
    transformer: VelocityModel,
    cond: tuple[Tensor, Tensor],
    uncond: tuple[Tensor, Tensor] | None,
    *,
    guidance_scale: float,
    truncate_timestep: bool = True,
) -> Denoise:
    """cond, uncond: text states (B, L, C) in the transformer's dtype and their masks (B, L) of bool; L may differ between the two.

    Unconditional and conditional run as one batch; uncond None, or guidance_scale 1, leaves the conditional alone. Sprint has its guidance
    scale as an input: uncond is not used and its timestep is never truncated.
    truncate_timestep: the model sees whole timesteps, as it did in training and does in the released code.
    """
    embedded = transformer.config.guidance_embed
    contexts = [cond] if uncond is None or guidance_scale == 1.0 or embedded else [uncond, cond]
    states, mask = batch_contexts(contexts)
    context = transformer.prepare_context(states, mask)
    truncate = truncate_timestep and not embedded

    def denoise(x: Tensor, sigma: float) -> Tensor:
        latent = torch.cat([x] * len(contexts))
        guidance = latent.new_full((len(latent),), guidance_scale, dtype=torch.float32) if embedded else None
        timestep = model_timestep(sigma, truncate).to(latent.device).expand(len(latent))
        velocity = transformer(latent.to(states.dtype), timestep, context, guidance=guidance).float()
        if len(contexts) == 2:
            uncond_velocity, cond_velocity = velocity.chunk(2)
            velocity = classifier_free_guidance(cond_velocity, uncond_velocity, guidance_scale)
        return x - sigma * velocity

    return denoise


def model_timestep(sigma: float, truncate: bool) -> Tensor:
    """1000 * sigma as a float32 scalar, cut to a whole number where `truncate`."""
    timestep = torch.tensor(sigma, dtype=torch.float32) * TIMESTEPS
    return timestep.trunc() if truncate else timestep


def batch_contexts(contexts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Text states and masks of several prompts as one batch, in order, padded to the longest with masked zeros."""
    length = max(states.shape[1] for states, _ in contexts)
    padded = [F.pad(states, (0, 0, 0, length - states.shape[1])) for states, _ in contexts]
    masks = [F.pad(mask, (0, length - mask.shape[1])) for _, mask in contexts]
    return torch.cat(padded), torch.cat(masks)
