"""The log of a training: one JSON object a line, readable while it runs and right after a kill."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

logger = logging.getLogger("sana")


class TrainingLog:
    """Appends lines to a file and tells the same to the logger, and to TensorBoard where it is installed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._board: Any = None

    def write(self, step: int, values: dict[str, float]) -> None:
        """Values of one step, each number to five digits."""
        line = {"step": step, **{name: float(f"{value:.5g}") for name, value in values.items()}}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self._tell_board(step, values)
        told = {**line, **({"minutes": round(line["minutes"], 1)} if "minutes" in line else {})}
        logger.info("%s  %s", self.path.stem, "  ".join(f"{name} {value:g}" for name, value in told.items()))

    def _tell_board(self, step: int, values: dict[str, float]) -> None:
        """In a folder beside the file, which `tensorboard --logdir` reads."""
        if self._board is None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                self._board = False
                return
            self._board = SummaryWriter(str(self.path.with_suffix(".tensorboard")), purge_step=step)
        if self._board:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
            self._board.flush()

    def lines(self) -> list[dict[str, float]]:
        """All lines so far. One that is damaged, such as by a kill, is left out."""
        if not self.path.exists():
            return []
        text = self.path.read_text(encoding="utf-8", errors="replace")
        return [values for values in map(_values, text.splitlines()) if values]

    def rewind(self, step: int) -> None:
        """Forget what was written after `step`: a training that resumes there writes it again."""
        kept = [json.dumps(line) + "\n" for line in self.lines() if line["step"] <= step]
        self.path.write_text("".join(kept), encoding="utf-8")


def _values(line: str) -> dict[str, float] | None:
    """None for what is no line of a log."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) and isinstance(values.get("step"), int) else None
