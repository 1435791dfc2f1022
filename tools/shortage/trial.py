"""A job with one allocation that fails, what it leaves behind, and the same job again."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sana_core.device import out_of_memory
from sana_core.kernels.choice import CHOSEN
from sana_core.transformer.replay import Replay

from .allocator import ERRORS, Shortage

CLOSE = 1e-3  # a picture in tiles and the whole one, attention in one piece and in smaller ones


@dataclass(frozen=True, kw_only=True)
class Job:
    """prepare: makes what the job works on.  work: what may run short of memory.  result: what came of it, from what
    it worked on and what it returned.  state: of what it works on, which a failure leaves as it was.  spares: it may go
    on with less memory.  lasts: once memory is out it stays so.  holds: a loaded model may keep weights.
    """

    name: str
    work: Callable[[Any], Any]
    prepare: Callable[[], Any] = lambda: None
    result: Callable[[Any, Any], Iterable[Tensor]] = lambda subject, made: [made]
    state: Callable[[Any], Iterable[Any]] = lambda subject: ()
    spares: bool = False
    lasts: bool = False
    holds: bool = False
    said: Callable[[Exception], bool] = out_of_memory


@dataclass
class Tally:
    """Of a job: allocations, how many of them failed in turn, jobs that went on in tiles, and what was wrong."""

    name: str
    allocations: int
    tried: int = 0
    went_on: int = 0
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        went_on = f", {self.went_on} went on with less memory" if self.went_on else ""
        return f"{self.name}: {self.tried} of {self.allocations} allocations failed{went_on}, {len(self.wrong)} wrong"


def attempt(job: Job, chosen: Callable[[int], bool] = lambda number: True) -> Tally:
    """The job once for each chosen number of an allocation, which fails."""
    expected, subject = _run(job, job.prepare()), job.prepare()
    with Shortage() as counted:
        job.work(subject)
    tally = Tally(job.name, counted.count)
    for number in filter(chosen, range(1, counted.count + 1)):
        tally.tried += 1
        tally.wrong += [
            f"{job.name}, allocation {number}: {wrong}" for wrong in _failed_once(job, number, expected, tally)
        ]
    return tally


def _failed_once(job: Job, number: int, expected: list[Tensor], tally: Tally) -> Iterable[str]:
    subject = job.prepare()
    before, world = [*job.state(subject)], global_state()
    shortage = Shortage(number, ERRORS[number % len(ERRORS)], lasts=job.lasts)
    made = wrong = None
    try:
        with shortage:
            made = job.work(subject)
    except Exception as error:
        wrong = None if job.said(error) else f"{type(error).__name__}: {error}"
    if wrong is not None:
        yield wrong
    if made is not None:
        yield from _went_on(job, shortage, [*job.result(subject, made)], expected, tally)
        return
    if not _same([*job.state(subject)], before):
        yield "what it works on is left changed"
    if not job.holds and shortage.held() and gc.collect() >= 0 and shortage.held():
        yield f"{shortage.held()} pieces of memory are held after the failure"
    if global_state() != world:
        yield f"the process is left changed: {[a for a, b in zip(global_state(), world) if a != b]}"
    if not _same(_run(job, subject), expected):
        yield "the next run gives another result"


def _went_on(job: Job, shortage: Shortage, made: list[Tensor], expected: list[Tensor], tally: Tally) -> Iterable[str]:
    """A job that came to its end although an allocation failed."""
    tally.went_on += 1
    if not (job.spares and shortage.raised):
        yield "the failure went unheard"
    elif max(float((a - b).abs().max()) for a, b in zip(made, expected, strict=True)) > CLOSE:
        yield "the picture is another one"


def _run(job: Job, subject: Any) -> list[Tensor]:
    return [tensor.clone() for tensor in job.result(subject, job.work(subject))]


def _same(found: list[Any], expected: list[Any]) -> bool:
    return len(found) == len(expected) and all(
        torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in zip(found, expected)
    )


def global_state() -> list[Any]:
    """What a job must not change in its process."""
    return [
        {operation.name: operation.off for operation in vars(CHOSEN).values()},
        Replay.off,
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.get_default_dtype(),
        torch.get_rng_state().tolist(),
    ]


def network_state(*networks: torch.nn.Module) -> Iterable[Any]:
    """Weights, their places, and hooks."""
    for network in networks:
        yield {
            name: (module.training, *(len(hooks) for hooks in (module._forward_hooks, module._forward_pre_hooks)))
            for name, module in network.named_modules()
        }
        for name, tensor in (*network.named_parameters(), *network.named_buffers()):
            yield name, tensor.data_ptr(), str(tensor.device), tensor.dtype
            yield tensor.detach().clone()
