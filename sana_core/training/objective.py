"""The network with its loss, as one module: what several processes average the gradients of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn

from ..transformer.controlnet import ControlBranch, SanaControlNet
from ..transformer.model import SanaTransformer
from .flow import TIMESTEPS, flow_matching_errors


@dataclass(frozen=True, kw_only=True)
class FlowBatch:
    """B pictures with all that is random about them.

    latents, noise: (B, 32, h, w), float32, latents of about unit variance. time: (B,) in 0..1. states, mask: text
    states (B, L, caption channels) and which of them count (B, L). weights: (B,), of each picture's loss. control:
    (B, 32, h, w), latents of condition pictures, or None.
    """

    latents: Tensor
    noise: Tensor
    time: Tensor
    states: Tensor
    mask: Tensor
    weights: Tensor
    control: Tensor | None = None

    def to(self, device: torch.device) -> FlowBatch:
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def split(self, count: int) -> list[FlowBatch]:
        """Pieces of `count` pictures."""
        starts = range(0, len(self.latents), count)
        return [self._each(lambda tensor, start=start: tensor[start : start + count]) for start in starts]

    def _each(self, change: Callable[[Tensor], Tensor]) -> FlowBatch:
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: change(tensor) for name, tensor in tensors.items() if tensor is not None})


class FlowObjective(nn.Module):
    """A SANA transformer, with a ControlNet or without, and the flow matching loss.

    autocast: the number type of matrix products; norms, sums and the tokens between the layers stay float32. None
    computes in the types of the weights. guidance: the guidance scale that Sprint is given.
    """

    def __init__(
        self,
        transformer: SanaTransformer,
        controlnet: SanaControlNet | None = None,
        *,
        autocast: torch.dtype | None = None,
        guidance: float | None = None,
    ) -> None:
        super().__init__()
        self.transformer, self.controlnet = transformer, controlnet
        self.autocast, self.guidance = autocast, guidance

    def forward(self, batch: FlowBatch) -> Tensor:
        """The mean of the pictures' weighted losses, a scalar in float32."""
        control = (
            (ControlBranch(self.controlnet, batch.control),) if self.controlnet and batch.control is not None else ()
        )
        guidance = None
        if self.transformer.config.guidance_embed:
            guidance = torch.full_like(batch.time, self.guidance or 0.0)

        own = self.transformer.scale_shift_table.dtype if self.autocast is None else batch.latents.dtype
        states = batch.states.to(own)

        def velocity(x: Tensor, time: Tensor) -> Tensor:
            return self.transformer(x.to(own), time * TIMESTEPS, states, batch.mask, guidance=guidance, control=control)

        with torch.autocast(batch.latents.device.type, self.autocast, enabled=self.autocast is not None):
            errors = flow_matching_errors(velocity, batch.latents, batch.noise, batch.time)
        return (errors * batch.weights).mean()
