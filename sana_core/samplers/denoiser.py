"""The transformer and its prompts as the `denoise(x, sigma) -> x0` that the solvers call."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import TransformerConfig
from .guidance import adaptive_scale, check_pag_layers, classifier_free_guidance, perturbed_attention_guidance
from .types import Denoise

TIMESTEPS = 1000  # the transformer's time is 1000 * sigma
MASK_MULTIPLE = 8  # tokens; attention kernels with a mask take such lengths as they are
EncodedText: TypeAlias = tuple[Tensor, Tensor | None]  # text states and their mask


class VelocityModel(Protocol):
    """What the denoiser needs of a transformer; `SanaTransformer` is one."""

    config: TransformerConfig

    def caption(self, states: Tensor, mask: Tensor | None = None, *, remember: bool = False) -> Any: ...

    def __call__(
        self,
        latent: Tensor,
        timestep: Tensor,
        context: Any,
        *,
        guidance: Tensor | None = None,
        control: Sequence[Any] = (),
        identity_attention: Collection[int] = (),
    ) -> Tensor: ...


def make_denoiser(
    transformer: VelocityModel,
    cond: EncodedText,
    uncond: EncodedText | None,
    *,
    guidance_scale: float,
    truncate_timestep: bool = True,
    pag_scale: float = 0.0,
    pag_layers: Collection[int] = (),
    pag_adaptive_scale: float = 0.0,
    control: Sequence[Any] = (),
    predict: Callable[..., Tensor] | None = None,
) -> Denoise:
    """cond, uncond: text states (P, L, C) in the transformer's dtype and their masks (P, L) of bool, or None where all
    tokens count; L may differ between the two. Each of the P prompts is for the same number of latents in a row.

    Unconditional and conditional run as one batch; uncond None, or guidance_scale 1, leaves the conditional alone.
    Sprint has its guidance scale as an input: uncond is not used and its timestep is never truncated.
    truncate_timestep: the model sees whole timesteps, as it did in training and does in the released code. pag_scale:
    above 0, a second forward of the conditional prompts with identity attention in the blocks `pag_layers` (upstream
    leaves a scale of 1 or less out; here any counts as given). pag_adaptive_scale: by how much it falls per timestep.
    control: `ControlBranch`es of the transformer, for every prediction alike.  predict: called in place of the
    transformer, with the same arguments, such as a `Replay` of it.

    Raises InputError for blocks that the model does not have.
    """
    embedded = transformer.config.guidance_embed
    contexts = [cond] if uncond is None or guidance_scale == 1.0 or embedded else [uncond, cond]
    caption = transformer.caption(*batch_contexts(contexts), remember=True)
    layers = check_pag_layers(pag_layers, transformer.config.depth) if pag_scale > 0.0 else ()
    perturbed_caption = transformer.caption(*cond, remember=True) if layers else None
    truncate = truncate_timestep and not embedded

    def velocity(x: Tensor, timestep: float, caption: Any, layers: Collection[int] = ()) -> Tensor:
        times = x.new_full((len(x),), timestep, dtype=torch.float32)
        guidance = x.new_full((len(x),), guidance_scale, dtype=torch.float32) if embedded else None
        latent = x.to(cond[0].dtype)
        return (predict or transformer)(
            latent, times, caption, guidance=guidance, control=control, identity_attention=layers
        ).float()

    def denoise(x: Tensor, sigma: float) -> Tensor:
        timestep = model_timestep(sigma, truncate)
        predicted = velocity(torch.cat([x] * len(contexts)), timestep, caption).chunk(len(contexts))
        cond_velocity = guided = predicted[-1]
        if len(predicted) == 2:
            guided = classifier_free_guidance(cond_velocity, predicted[0], guidance_scale)
        scale = adaptive_scale(pag_scale, pag_adaptive_scale, timestep) if layers else 0.0
        if scale > 0.0:
            perturbed = velocity(x, timestep, perturbed_caption, layers)
            guided = perturbed_attention_guidance(guided, cond_velocity, perturbed, scale)
        return x - sigma * guided

    return denoise


def model_timestep(sigma: float, truncate: bool) -> float:
    """1000 * sigma in float32, cut to a whole number where `truncate`."""
    timestep = float(np.float32(sigma) * np.float32(TIMESTEPS))
    return float(math.trunc(timestep)) if truncate else timestep


def batch_contexts(contexts: Sequence[EncodedText]) -> EncodedText:
    """Text states and masks of several prompts as one batch, in order, of one length.

    They are padded to the longest with masked zeros. No mask is needed where every token counts and the shorter ones
    fit into the longest a whole number of times (such as the empty prompt of one token): a prompt that is repeated as
    a whole is attended to as once. Without a mask attention has faster kernels.
    """
    length = max(states.shape[1] for states, _ in contexts)
    if all(mask is None and length % states.shape[1] == 0 for states, mask in contexts):
        return torch.cat([states.repeat(1, length // states.shape[1], 1) for states, _ in contexts]), None
    length = -(-length // MASK_MULTIPLE) * MASK_MULTIPLE
    padded = [F.pad(states, (0, 0, 0, length - states.shape[1])) for states, _ in contexts]
    masks = [states.new_ones(states.shape[:2], dtype=torch.bool) if mask is None else mask for states, mask in contexts]
    return torch.cat(padded), torch.cat([F.pad(mask, (0, length - mask.shape[1])) for mask in masks])
