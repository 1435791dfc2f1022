"""SANA's resolution idea: learn on small pictures first, finish on large ones (arXiv:2410.10629, sec. 4.1)."""

from __future__ import annotations

from dataclasses import dataclass

from sana_core.errors import InputError
from sana_core.geometry import DC_AE_F32


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A part of a training: side of its pictures in pixels, pictures (or captions) a step, share of the steps."""

    pixels: int
    batch: int
    share: float

    def __post_init__(self) -> None:
        if self.pixels < 1 or self.pixels % DC_AE_F32.downscale:
            raise InputError(
                f"a training phase of {self.pixels} px: pictures are a positive multiple of {DC_AE_F32.downscale} wide"
            )
        if self.batch < 1 or not 0 < self.share <= 1:
            raise InputError(
                f"a training phase with batch {self.batch} and share {self.share}: batch >= 1 and 0 < share <= 1 are "
                "expected"
            )


def check_phases(phases: tuple[Phase, ...]) -> None:
    """Raise InputError unless the shares make one whole and the pictures never shrink."""
    total, sizes = sum(phase.share for phase in phases), [phase.pixels for phase in phases]
    if abs(total - 1) > 1e-6 or sizes != sorted(sizes):
        raise InputError(
            f"training phases of {sizes} px with shares summing to {total:.3f}: expected growing pictures and a sum of "
            "1"
        )


def phase_at(phases: tuple[Phase, ...], step: int, steps: int) -> Phase:
    """The phase that `step` (0..steps - 1) belongs to."""
    end = 0.0
    for phase in phases:
        end += phase.share
        if step < round(end * steps):
            return phase
    return phases[-1]
