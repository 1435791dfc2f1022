"""The steps of a training: loss, gradient, optimizers, average, log, checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from ..errors import InputError
from .log import TrainingLog
from .optimizer import rate_factor, set_rate
from .state import Recipe, TrainingState

Batch = TypeVar("Batch")
Report = Callable[[int], dict[str, float]]  # step -> what was measured there, for the log


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """`steps` altogether, over all runs; warm-up in steps, decay as a share of them.

    weights: of the losses by name, 1 where a name is missing. minutes: of this run, then it saves and stops; None runs
    to the end. report_every: steps between reports (0: at the end only); save_seconds: the most that a kill costs.
    """

    steps: int
    warmup: int
    decay: float
    weights: dict[str, float]
    clip: float = 1.0
    minutes: float | None = None
    log_every: int = 20
    report_every: int = 0
    save_seconds: float = 60.0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.warmup < 1 or not 0 < self.decay <= 1 or self.log_every < 1:
            raise InputError(
                f"a training needs steps, warmup and log_every of at least 1 and decay in (0, 1], got {self}"
            )


class Training:
    """A training with its files: `folder`/`name`.pt is the checkpoint, `folder`/`name`.jsonl the log."""

    def __init__(self, name: str, folder: Path, state: TrainingState, settings: LoopSettings, recipe: Recipe) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.state, self.settings = state, settings
        self.recipe = {**recipe, "stage": name, "steps": settings.steps}
        self.checkpoint, self.log = folder / f"{name}.pt", TrainingLog(folder / f"{name}.jsonl")
        if self.checkpoint.exists():
            state.restore(self.checkpoint, self.recipe)
        self.log.rewind(state.step)

    def run(
        self, batches: Iterable[Batch], losses: Callable[[Batch, int], dict[str, Tensor]], report: Report | None = None
    ) -> bool:
        """Train on `batches`, which begin at the state's step. Returns whether all steps are done; else the same call
        continues.

        losses: (batch, step) -> scalars by name. report: called every `report_every` steps and after the last.
        """
        state, settings = self.state, self.settings
        begun = saved = time.monotonic()
        before, totals, counted = state.seconds, {}, 0
        for batch in batches:
            for name, loss in self._step(losses(batch, state.step)).items():
                totals[name] = totals.get(name, 0.0) + loss
            counted += 1
            now = time.monotonic()
            state.seconds = before + now - begun
            last = state.step == settings.steps
            out_of_time = settings.minutes is not None and now - begun > settings.minutes * 60
            logging = last or out_of_time or state.step % settings.log_every == 0
            saving = last or out_of_time or now - saved >= settings.save_seconds
            if logging or saving:
                means = {name: (total / counted).item() for name, total in totals.items()}
                self._check(means)
                if logging:
                    self._log(means)
                    totals, counted = {}, 0
                if saving:
                    self.save()
                    saved = now
            if report and (last or (settings.report_every and state.step % settings.report_every == 0)):
                self._report(report(state.step))
            if out_of_time:
                break
        return state.step == settings.steps

    def save(self) -> None:
        self.state.save(self.checkpoint, self.recipe)

    def _step(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """One update -> the losses, detached."""
        state, settings = self.state, self.settings
        total = torch.stack([settings.weights.get(name, 1.0) * loss for name, loss in losses.items()]).sum()
        total.backward()
        set_rate(
            state.optimizers, rate_factor(state.step, settings.steps, warmup=settings.warmup, decay=settings.decay)
        )
        # Muon's updates have their length by construction; the clip is for AdamW, which comes last
        torch.nn.utils.clip_grad_norm_(
            [p for group in state.optimizers[-1].param_groups for p in group["params"]], settings.clip
        )
        for optimizer in state.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        state.step += 1
        if state.average:
            state.average.update(state.step)
        return {name: loss.detach() for name, loss in losses.items()}

    def _report(self, measured: dict[str, float]) -> None:
        if measured:
            self.log.write(self.state.step, measured)

    def _log(self, means: dict[str, float]) -> None:
        rates = {f"rate_{type(o).__name__.lower()}": o.param_groups[0]["lr"] for o in self.state.optimizers}
        self.log.write(self.state.step, {"minutes": self.state.seconds / 60, **means, **rates})

    def _check(self, means: dict[str, float]) -> None:
        broken = [name for name, mean in means.items() if not abs(mean) < float("inf")]
        if broken:
            raise FloatingPointError(
                f"the loss {' and '.join(broken)} is not finite at step {self.state.step}: the last checkpoint, "
                f"{self.checkpoint}, is from "
                "before that; lower the learning rate or train in float32"
            )
