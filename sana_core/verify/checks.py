"""One comparison: how far two results are apart, how far they may be, and the verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from ..errors import SanaError, shortened
from ..precision import dtype_name
from ..shortage import out_of_memory

AGREES, DISAGREES, UNCHECKED, FAILED = "agrees", "DISAGREES", "not checked", "FAILED"
TOLERANCE = {torch.float32: 2e-3, torch.float16: 5e-2, torch.bfloat16: 2e-1}
"""Largest difference over the RMS of the reference up to which two networks agree. It is rounding, times the depth."""
ROUNDING = 3.0  # times what rounding does to the reference itself, if that is more
LARGEST = 0.7  # of all tolerances: two results that have nothing in common are about 4 apart
LONGEST = 300  # characters of an error in a report
Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class Check:
    """what: was compared.  against: with what.  error: the largest difference over the RMS of the reference.  note: why
    it was not checked, or what has to be known.
    """

    what: str
    against: str
    dtype: str
    verdict: str
    error: float | None = None
    allowed: float | None = None
    note: str = ""

    @property
    def bad(self) -> bool:
        return self.verdict in (DISAGREES, FAILED)


def error(found: Tensor, expected: Tensor) -> float:
    """Largest difference over the root mean square of what is expected; infinite if one has no number there."""
    if found.shape != expected.shape:
        return float("inf")
    found, expected = found.double(), expected.double()
    if not (found.isfinite().all() and expected.isfinite().all()):
        return float("inf")
    return float((found - expected).abs().max() / expected.square().mean().sqrt().clamp_min(1e-12))


def compared(
    what: str,
    against: str,
    dtype: torch.dtype,
    found: Tensor,
    expected: Tensor,
    *,
    rounding: float = 0.0,
    note: str = "",
    place: str = "",
    allowed: float | None = None,
) -> Check:
    """The verdict on two results. rounding: how far the reference is from itself in float32.  place: where they were
    computed, if that is not where pictures are drawn.  allowed: in the place of the tolerance.
    """
    apart = error(found, expected)
    allowed = allowed or max(TOLERANCE[dtype], min(ROUNDING * rounding, LARGEST))
    notes = [
        *(["ours is not finite"] if not found.isfinite().all() else []),
        *(["the reference is not finite"] if not expected.isfinite().all() else []),
        *([note] if note else []),
    ]
    return Check(
        what=what,
        against=against,
        dtype=dtype_name(dtype) + place,
        error=apart,
        allowed=allowed,
        verdict=AGREES if apart <= allowed else DISAGREES,
        note="; ".join(notes),
    )


@dataclass(frozen=True)
class Trouble:
    """Why a part of the work has no result. unexpected: neither memory nor a missing package explains it."""

    words: str
    unexpected: bool

    @property
    def verdict(self) -> str:
        return FAILED if self.unexpected else UNCHECKED


def attempt(work: Callable[[], Value]) -> Value | Trouble:
    """The result of `work`, or why there is none. Nothing but Ctrl-C gets through."""
    try:
        return work()
    except ImportError as failure:
        package = (failure.name or "a package").partition(".")[0]
        return Trouble(f"{package} is not installed, or too old: pip install -U {package}", unexpected=False)
    except Exception as failure:
        if out_of_memory(failure):
            return Trouble(f"out of memory ({in_short(failure)})", unexpected=False)
        kind = "" if isinstance(failure, SanaError) else f"{type(failure).__name__}: "
        return Trouble(f"{kind}{in_short(failure)}", unexpected=True)


def in_short(failure: BaseException) -> str:
    return shortened(" ".join(str(failure).split()), LONGEST)
