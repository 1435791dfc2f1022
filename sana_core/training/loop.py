"""The steps of a training: loss, gradient, optimizers, average, log, checkpoint."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..errors import DivergedError, InputError
from .log import TrainingLog
from .processes import Processes
from .rising import risen
from .schedule import rate_factor, set_rate
from .state import Recipe, TrainingState, write_state

logger = logging.getLogger("sana")
Batch = TypeVar("Batch")
Report = Callable[[int], dict[str, float]]  # step -> what was measured there, for the log


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """`steps` altogether, over all runs; warm-up in steps, decay as a share of them.

    weights: of the losses by name, 1 where a name is missing. clip: the longest gradient, of what the last optimizer
    trains. minutes: of this run, then it saves and stops; None runs to the end. report_every: steps between reports
    (0: at the end only); save_seconds: the most that a kill costs.
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
        if self.steps < 1 or self.warmup < 0 or not 0 <= self.decay <= 1 or self.log_every < 1 or self.clip <= 0:
            raise InputError(
                "a training needs steps and log_every of at least 1, warmup of at least 0, decay from 0 to 1 and clip "
                f"above 0, got {self}"
            )


class Training:
    """A training with its files: `folder`/`name`.pt is the checkpoint, `folder`/`name`.jsonl the log.

    objective: the module whose call gives the losses, where it needs more than one process to know of it.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        state: TrainingState,
        settings: LoopSettings,
        recipe: Recipe,
        *,
        processes: Processes | None = None,
        objective: nn.Module | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.state, self.settings = state, settings
        self.processes = processes or Processes(torch.device("cpu"))
        self.objective = objective or state.model
        self.recipe = {**recipe, "stage": name, **({"steps": settings.steps} if settings.decay else {})}
        self.checkpoint, self.log = folder / f"{name}.pt", TrainingLog(folder / f"{name}.jsonl")
        if self.checkpoint.exists():
            state.restore(self.checkpoint, self.recipe)
        self.saved = self.checked = state.step  # the last step in the checkpoint; the last that is known to be good
        self.warned = False
        if self.processes.is_main:
            self.log.rewind(state.step)
            self.history = self.log.lines()

    def run(
        self,
        batches: Iterable[Batch],
        losses: Callable[[Batch, int], dict[str, Tensor]],
        report: Report | None = None,
        *,
        split: Callable[[Batch], Sequence[Batch]] = lambda batch: (batch,),
        stop: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Train on `batches`, which begin at the state's step. Returns whether all steps are done; else the same call
        continues.

        losses: (batch, step) -> scalars by name. report: called every `report_every` steps and after the last, by all
        processes. split: the pieces of equal size in which a batch is computed, over all processes. stop: asked after
        each step; if it says so the training is saved and ends.
        """
        state, settings = self.state, self.settings
        begun = saved = time.monotonic()
        before, totals, counted = state.seconds, {}, 0
        for batch in batches:
            for name, loss in self._step(self.processes.own(split(batch)), losses).items():
                totals[name] = totals.get(name, 0.0) + loss
            counted += 1
            now = time.monotonic()
            state.seconds = before + now - begun
            last = state.step == settings.steps
            out_of_time = settings.minutes is not None and now - begun > settings.minutes * 60
            ending, save_due = self._agreed(out_of_time or stop(), now - saved >= settings.save_seconds)
            logging = last or ending or state.step % settings.log_every == 0
            saving = last or ending or save_due
            if logging or saving:
                means = {name: self.processes.mean(total / counted).item() for name, total in totals.items()}
                self._check(means)
                if logging:
                    self._log(means)
                    totals, counted = {}, 0
                if saving:
                    self.save()
                    saved = now
            if report and (last or (settings.report_every and state.step % settings.report_every == 0)):
                self._report(report(state.step))
            if ending:
                break
        return state.step >= settings.steps

    def save(self) -> None:
        """Write the checkpoint. All processes have to call it."""
        content = self.state.content(self.recipe)
        self._check_weights(content)
        if self.processes.is_main:
            write_state(content, self.checkpoint)
        self.processes.wait()
        self.saved = self.state.step

    def _step(self, pieces: Sequence[Batch], losses: Callable[[Batch, int], dict[str, Tensor]]) -> dict[str, Tensor]:
        """One update -> the losses, detached."""
        state, settings = self.state, self.settings
        found: dict[str, Tensor] = {}
        for count, piece in enumerate(pieces, start=1):
            with self.processes.summing(self.objective, last=count == len(pieces)):
                parts = losses(piece, state.step)
                weighted = [settings.weights.get(name, 1.0) * loss for name, loss in parts.items()]
                (torch.stack(weighted).sum() / len(pieces)).backward()
            for name, loss in parts.items():
                found[name] = found.get(name, 0.0) + loss.detach() / len(pieces)
        set_rate(
            state.optimizers, rate_factor(state.step, settings.steps, warmup=settings.warmup, decay=settings.decay)
        )
        # Muon's updates have their length by construction; the clip is for the last optimizer
        torch.nn.utils.clip_grad_norm_(
            [p for group in state.optimizers[-1].param_groups for p in group["params"]], settings.clip
        )
        for optimizer in state.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        state.step += 1
        if state.average:
            state.average.update(state.step)
        return found

    def _agreed(self, *flags: bool) -> list[bool]:
        """What the clocks of several processes say, as one: all do what any does."""
        if self.processes.count == 1:
            return list(flags)
        said = torch.tensor(flags, dtype=torch.float32, device=self.processes.device)
        return (self.processes.mean(said) > 0).tolist()

    def _report(self, measured: dict[str, float]) -> None:
        if measured and self.processes.is_main:
            self.log.write(self.state.step, measured)

    def _log(self, means: dict[str, float]) -> None:
        if self.processes.is_main:
            rates = {f"rate_{type(o).__name__.lower()}": o.param_groups[0]["lr"] for o in self.state.optimizers}
            self.log.write(self.state.step, {"minutes": self.state.seconds / 60, **means, **rates})
            self.history.append({"step": self.state.step, **means})
            self._warn(means)

    def _warn(self, names: Iterable[str]) -> None:
        """Once, of a loss that stays far above its beginning."""
        for name in names:
            found = risen([line[name] for line in self.history if name in line])
            if found and not self.warned:
                self.warned = True
                logger.warning(
                    "%s has risen from %.3g to %.3g and stays there: the training may have gone astray. Look at what "
                    "it draws; if that is broken, begin anew with a lower learning rate (--rate)",
                    name,
                    *found,
                )

    def _check(self, means: dict[str, float]) -> None:
        broken = [name for name, mean in means.items() if not abs(mean) < float("inf")]
        if broken:
            raise self._diverged(f"{', '.join(broken)} is not finite")
        self.checked = self.state.step

    def _check_weights(self, content: Mapping[str, Any]) -> None:
        """A loss is of the weights before its step: those after it may be broken already."""
        if not all(bool(torch.isfinite(tensor).all()) for tensor in content["model"].values()):
            raise self._diverged("its weights are not finite")

    def _diverged(self, what: str) -> DivergedError:
        first, last = min(self.checked + 1, self.state.step), self.state.step
        where = f"at step {last}" if first == last else f"in the steps {first} to {last}"
        kept = "nothing was saved before"
        if self.checkpoint.exists():
            kept = f"{self.checkpoint} keeps step {self.saved}, from before that"
            if self.saved and "steps" not in self.recipe:
                kept += f": the same command with --steps {self.saved} writes the file of it"
        return DivergedError(
            f"{where} the training went astray ({what}): begin anew with a lower learning rate (--rate); {kept}"
        )
