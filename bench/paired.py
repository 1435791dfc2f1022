"""Times of several variants of one computation, compared within rounds.

In every round each variant runs once, in shuffled order, and its time is set against that of the reference in the same
round. So what slows the machine down for a while slows down both. The reference also runs a second time in each round:
the ratio of these two is the control, which shows what the noise is.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Run = Callable[[], Tensor]
CONTROL = "the reference again"
LEAST_ROUNDS = 3
MOST_REPEATS = 200
CUDA_CALLS = 4  # after the first: kernels are chosen and graphs recorded then
LONG_MS = 2000.0  # a call on the CPU that takes longer is not repeated to warm up


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """Reference's time over the variant's, round by round: above 1 the variant is faster.

    milliseconds: median of the variant's times.  error: of its result, see `difference`.  warm_up_seconds: wall clock
    of its first calls, with all that is made once: compilation, a CUDA graph, the choice of kernels.
    """

    variant: str
    milliseconds: float
    median: float
    p10: float
    p90: float
    wins: int
    rounds: int
    error: float = 0.0
    warm_up_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Clock:
    """How to time, and how often.

    On a GPU its own events count. On the CPU the time of this process counts, which other processes do not add to.
    least_ms: a sample repeats a shorter computation until it takes so long.
    """

    device: torch.device
    least_ms: float
    rounds: int

    def timed(self, run: Run, repeats: int = 1) -> tuple[float, Tensor]:
        """Milliseconds of one run, the mean of `repeats`, and the result."""
        if self.device.type != "cuda":
            start = time.process_time()
            for _ in range(repeats - 1):
                run()
            result = run()
            return (time.process_time() - start) * 1e3 / repeats, result
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        for _ in range(repeats - 1):
            run()
        result = run()
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end) / repeats, result


@dataclass(frozen=True, kw_only=True)
class _Warm:
    """What a variant's first calls told. repeats: how many runs make a sample long enough."""

    warm_up_seconds: float
    repeats: int
    result: Tensor


def paired(
    variants: dict[str, Run],
    clock: Clock,
    deadline: float = float("inf"),
    failed: Callable[[str, Exception], object] | None = None,
) -> list[Ratio]:
    """Ratios of all variants, the first of which is the reference, and of the control.

    deadline: of `time.monotonic()`; no round begins after it, but three are run in any case.  failed: is told of a
    variant other than the reference whose first call raises, and that variant is left out; None: the error is raised.
    """
    reference = next(iter(variants))
    warm: dict[str, _Warm] = {}
    for name, run in variants.items():
        try:
            warm[name] = _warm(run, clock)
        except Exception as error:
            if failed is None or name == reference:
                raise
            failed(name, error)
    errors = {name: difference(found.result, warm[reference].result) for name, found in warm.items()}
    runs = {reference: variants[reference], CONTROL: variants[reference], **{name: variants[name] for name in warm}}
    repeats = {CONTROL: warm[reference].repeats} | {name: found.repeats for name, found in warm.items()}
    warm_ups = {name: found.warm_up_seconds for name, found in warm.items()}
    del warm
    times: dict[str, list[float]] = {name: [] for name in runs}
    order, shuffle = list(runs), random.Random(0)
    for done in range(clock.rounds):
        if done >= LEAST_ROUNDS and time.monotonic() > deadline:
            break
        shuffle.shuffle(order)
        for name in order:
            times[name].append(clock.timed(runs[name], repeats[name])[0])
    return [
        summary(name, times[name], times[reference], errors.get(name, 0.0), warm_ups.get(name, 0.0)) for name in runs
    ]


def _warm(run: Run, clock: Clock) -> _Warm:
    start = time.monotonic()
    milliseconds, result = clock.timed(run)
    for _ in range(CUDA_CALLS if clock.device.type == "cuda" else milliseconds < LONG_MS):
        milliseconds, result = clock.timed(run)
    seconds = time.monotonic() - start
    repeats = min(MOST_REPEATS, 1 + int(clock.least_ms / max(milliseconds, 1e-3)))
    return _Warm(warm_up_seconds=seconds, repeats=repeats, result=result.clone())  # a graph overwrites its result


def summary(name: str, times: list[float], reference: list[float], error: float = 0.0, warm_up: float = 0.0) -> Ratio:
    ratios = torch.tensor([expected / found for expected, found in zip(reference, times)], dtype=torch.float64)
    p10, median, p90 = (ratios.quantile(fraction).item() for fraction in (0.1, 0.5, 0.9))
    return Ratio(
        variant=name,
        milliseconds=torch.tensor(times, dtype=torch.float64).quantile(0.5).item(),
        median=median,
        p10=p10,
        p90=p90,
        wins=int((ratios > 1).sum()),
        rounds=len(times),
        error=error,
        warm_up_seconds=warm_up,
    )


def verdict(ratio: Ratio, control: Ratio) -> str:
    """What may be said of a variant: a difference is one only where it lies outside of the noise."""
    if ratio.p10 > control.p90:
        return "faster"
    return "slower" if ratio.p90 < control.p10 else "no difference to be told"


def difference(found: Tensor, expected: Tensor) -> float:
    """Root mean square of the difference over that of `expected`; infinite where a value is not finite."""
    error = ((found.float() - expected.float()).square().mean() / expected.float().square().mean()).sqrt().item()
    return error if error == error else float("inf")
