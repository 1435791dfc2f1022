"""What a node shows while it trains: words, a bar, and a picture of the loss and of the last samples."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management
import comfy.utils
from PIL import Image

from ...sana_core.training.jobs import Job
from ...sana_core.training.log import TrainingLog
from ...sana_core.training.plot import loss_plot
from .progress import Steps, show

PREVIEW_SECONDS, PREVIEW_SIDE = 1.0, 768


class LossSteps(Steps):
    """Progress of the steps, with the loss."""

    def __init__(self, total: int, loss: Callable[[], str]) -> None:
        super().__init__(total)
        self.loss = loss

    def text(self, done: int, now: float) -> str:
        return f"{super().text(done, now)}{self.loss()}"


@dataclass
class Shown:
    """Of one job."""

    job: Job
    sheet: Image.Image | None = None
    log: TrainingLog | None = None
    bar: Any = field(default_factory=lambda: comfy.utils.ProgressBar(1))
    pictured: float = 0.0

    def __post_init__(self) -> None:
        self.steps = LossSteps(self.job.settings.steps, self._loss)
        sheets = sorted((self.job.folder / "samples").glob("*.png"))
        if sheets:  # of the training that goes on
            self.sheet = Image.open(sheets[-1]).convert("RGB")

    def prepared(self, what: str, done: int, total: int) -> None:
        """Before the steps. Nothing is lost by a stop here."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        self.bar.update_absolute(done, max(1, total))
        show(f"{what} {done}/{total}")

    def watch(self, training: Any, sheets: Any) -> None:
        self.log = training.log
        self.steps = LossSteps(self.job.settings.steps, self._loss)  # the clock begins now
        if sheets:
            sheets.heard = self.heard

    def heard(self, step: int, sheet: Image.Image) -> None:
        self.sheet, self.pictured = sheet, 0.0

    def stepped(self, step: int) -> bool:
        """After each step. Does it have to end?"""
        total, now, preview = self.job.settings.steps, time.monotonic(), None
        if now - self.pictured > PREVIEW_SECONDS:
            self.pictured = now
            preview = ("JPEG", self.picture(), PREVIEW_SIDE)
        self.bar.update_absolute(step, total, preview)
        self.steps.update(step)
        return comfy.model_management.processing_interrupted()

    def end(self) -> None:
        show(f"{self.job.target.name}: {self.job.settings.steps} steps{self._loss()}")

    def plot(self) -> Image.Image:
        lines = self.log.lines() if self.log else []
        return loss_plot(
            [(int(line["step"]), line["loss"]) for line in lines if "loss" in line], self.job.settings.steps
        )

    def picture(self) -> Image.Image:
        """The plot, with the last samples above it."""
        plot = self.plot()
        if self.sheet is None:
            return plot
        height = round(self.sheet.height * plot.width / self.sheet.width)
        both = Image.new("RGB", (plot.width, plot.height + height))
        both.paste(self.sheet.resize((plot.width, height)), (0, 0))
        both.paste(plot, (0, height))
        return both

    def _loss(self) -> str:
        found = [line["loss"] for line in self.log.lines() if "loss" in line] if self.log else []
        return f", loss {found[-1]:.4g}" if found else ""
