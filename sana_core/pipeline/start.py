"""What a run starts from: noise, or a picture of which a share is redrawn; and the noise of its steps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError
from ..geometry import DC_AE_F32
from ..latents import noises
from ..samplers.methods import SAMPLERS
from ..samplers.schedules import FIRST_TIME, check_strength
from ..samplers.types import Denoise
from ..transformer.controlnet import ControlBranch

DEFAULT_STRENGTH = 0.6  # of a start picture without a mask; everything under a mask is redrawn


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a run starts from.

    noise: (B, 32, h, w), float32.  step_noise: what the solver adds in its steps, drawn as it is taken.  picture: the
    latent of the start picture, (1 or B, 32, h, w), or None.  redrawn: (1 or B, 1, h, w), 1 where it is redrawn and
    0 elsewhere; None: everywhere.  control: the ControlNets at work.
    """

    noise: Tensor
    step_noise: Iterable[Tensor]
    picture: Tensor | None = None
    redrawn: Tensor | None = None
    control: tuple[ControlBranch, ...] = ()

    def begin(self, denoise: Denoise, sigma: float) -> tuple[Tensor, Denoise]:
        """Returns x at noise level sigma and a denoiser. The denoiser keeps the picture outside `redrawn`.

        Outside, the model sees the picture under the same noise in every step, as in ComfyUI. A level of FIRST_TIME or
        more counts as pure noise; every grid of a shift of 1 or more begins there.
        """
        picture, redrawn = self.picture, self.redrawn
        if picture is None:
            return self.noise, denoise

        def noisy(sigma: float) -> Tensor:
            return self.noise if sigma >= FIRST_TIME else sigma * self.noise + (1.0 - sigma) * picture

        if redrawn is None:
            return noisy(sigma), denoise

        def inside(x: Tensor, sigma: float) -> Tensor:
            return torch.lerp(picture, denoise(torch.lerp(noisy(sigma), x, redrawn), sigma), redrawn)

        return noisy(sigma), inside


def start_noise(
    shape: tuple[int, ...],
    seed: int | Sequence[int],
    latents: Tensor | None,
    step_noise: Tensor | None,
) -> tuple[Tensor, Iterable[Tensor]]:
    """The noise of a run and that of its steps: as given, or from one generator, the first noise first. With several
    seeds each picture of the batch has a generator of its own.
    """
    drawn = noises(shape, seed) if isinstance(seed, int) else _noises_of_each(shape[1:], seed)
    first = next(drawn)
    return first if latents is None else latents, drawn if step_noise is None else step_noise


def _noises_of_each(shape: tuple[int, ...], seeds: Sequence[int]) -> Iterator[Tensor]:
    return map(torch.cat, zip(*(noises((1, *shape), seed) for seed in seeds)))


def resolve_strength(image: object | None, strength: float | None, mask: object | None) -> float | None:
    """How much of a start picture is redrawn: as given, else DEFAULT_STRENGTH, or 1 with a mask. None without a
    picture.

    Raises InputError for a strength outside (0, 1], and for a strength or a mask without a picture.
    """
    if image is None:
        if strength is not None or mask is not None:
            raise InputError("strength and mask say how to redraw a picture: give the picture, too, as image")
        return None
    if strength is None:
        return DEFAULT_STRENGTH if mask is None else 1.0
    check_strength(strength)
    return strength


def check_noise(
    latents: Tensor | None, step_noise: Tensor | None, shape: tuple[int, ...], sampler: str, steps: int
) -> None:
    """Raise InputError for noise of another shape than (B, 32, h, w), and for step noise that the sampler does not
    use. steps: of the run.
    """
    if latents is not None and tuple(latents.shape) != shape:
        height, width = DC_AE_F32.in_pixels(shape)
        raise InputError(
            f"latents of shape {tuple(latents.shape)}, expected {shape} for {shape[0]} pictures of {width} x {height}"
        )
    if step_noise is None:
        return
    if not SAMPLERS[sampler].step_noise:
        raise InputError(
            f"step_noise is given, and {sampler} adds none in its steps: leave it out, or choose scm (Sprint models)"
        )
    needed = (steps - 1, *shape)
    if tuple(step_noise.shape[1:]) != shape or len(step_noise) < steps - 1:
        raise InputError(
            f"step_noise of shape {tuple(step_noise.shape)}, expected {needed}, one noise for each step but the last"
        )
