"""Sprint: a trained SANA distilled into one that draws in one to four steps.

SANA-Sprint (arXiv:2503.09641) first makes the teacher a TrigFlow model with a dense time embedding and qk-norm, then
trains the student with the continuous-time consistency objective (sCM, arXiv:2410.11081) and an adversarial loss
(LADD). Here the same two parts are simpler:

1. guidance distillation: the student (sprint_student.py) learns the teacher's guided velocity for a random guidance
scale;
2. discrete consistency distillation (arXiv:2303.01469, algorithm 2) along the teacher's guided flow, in ever finer
intervals. Its objective
   is the one whose limit sCM takes, and needs no forward-mode derivatives. There is no adversarial loss.

The result is the same function as Sprint's: TrigFlow's sample is the flow's, scaled (x / (cos s + sin s), t = sin s /
(cos s + sin s)), so that one velocity network serves both and the SCM sampler applies.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from sana_core.samplers.schedules import shifted
from sana_core.training.flow import Velocity, logit_normal_times, noisy

COARSEST, FINEST = 4, 32  # intervals at the beginning and at the end of the consistency part
FROM_NOISE = 0.3  # share of samples at t = 1, where every Sprint run begins
GUIDANCE_SCALES = (2.0, 5.0)  # range the student is trained for
HUBER = 0.00054  # times the square root of the size: pseudo-Huber constant of arXiv:2310.14189, sec. 3.3

# (noisy latents, time (B,) in 0..1, guidance scale (B,)) -> velocity
GuidedVelocity = Callable[[Tensor, Tensor, Tensor], Tensor]


def guided(cond: Velocity, uncond: Velocity) -> GuidedVelocity:
    """Classifier-free guidance of the teacher with a scale for each sample."""

    def velocity(x: Tensor, time: Tensor, scale: Tensor) -> Tensor:
        base = uncond(x, time).float()
        return base + scale[:, None, None, None] * (cond(x, time).float() - base)

    return velocity


def guidance_scales(count: int, generator: torch.Generator) -> Tensor:
    """Random guidance scales (count,), even over GUIDANCE_SCALES."""
    low, high = GUIDANCE_SCALES
    return low + (high - low) * torch.rand(count, generator=generator, device=generator.device)


def guidance_distillation_loss(
    student: GuidedVelocity, teacher: GuidedVelocity, x0: Tensor, generator: torch.Generator, *, shift: float
) -> Tensor:
    """Mean squared error to the teacher's guided velocity at random times and scales. x0: (B, 32, h, w), float32."""
    noise = torch.randn(x0.shape, generator=generator, device=x0.device)
    time = logit_normal_times(len(x0), generator, shift=shift)
    time = torch.where(
        torch.rand(len(x0), generator=generator, device=x0.device) < FROM_NOISE, torch.ones_like(time), time
    )
    scale, x = guidance_scales(len(x0), generator), noisy(x0, noise, time)
    with torch.no_grad():
        target = teacher(x, time, scale)
    return F.mse_loss(student(x, time, scale).float(), target)


def consistency_loss(
    student: GuidedVelocity,
    teacher: GuidedVelocity,
    x0: Tensor,
    generator: torch.Generator,
    *,
    shift: float,
    progress: float,
) -> Tensor:
    """The student's x0 at time t against its own, without gradient, one interval nearer to the picture along the
    teacher's flow.

    At s = 0 the target is the teacher's step itself, so that the chain ends on pictures. progress: 0..1 of the
    consistency part. Pseudo-Huber distance over the length of the interval, a scalar.
    """
    count, device = len(x0), x0.device
    intervals = round(COARSEST * (FINEST / COARSEST) ** progress)
    upper = torch.randint(1, intervals + 1, (count,), generator=generator, device=device)
    upper = torch.where(
        torch.rand(count, generator=generator, device=device) < FROM_NOISE, torch.full_like(upper, intervals), upper
    )
    t, s = (shifted(u, shift) for u in (upper / intervals, (upper - 1) / intervals))
    scale, noise = guidance_scales(count, generator), torch.randn(x0.shape, generator=generator, device=device)
    x_t = noisy(x0, noise, t)
    with torch.no_grad():
        x_s = x_t - _column(t - s) * teacher(x_t, t, scale)
        target = x_s - _column(s) * student(x_s, s, scale).float()
    difference = x_t - _column(t) * student(x_t, t, scale).float() - target
    return (_pseudo_huber(difference) / (t - s)).mean()


def _pseudo_huber(difference: Tensor) -> Tensor:
    """(B, ...) -> (B,), the distance over the square root of the size."""
    size = difference[0].numel()
    constant = HUBER * size**0.5
    return ((difference.flatten(1).square().sum(dim=1) + constant**2).sqrt() - constant) / size**0.5


def _column(values: Tensor) -> Tensor:
    return values[:, None, None, None]
