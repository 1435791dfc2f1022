"""The log of a training: one JSON object a line, readable while it runs and right after a kill."""

from __future__ import annotations

import json
import logging
from pathlib import Path

logger = logging.getLogger("sana")


class TrainingLog:
    """Appends lines to a file and tells the same to the logger."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, step: int, values: dict[str, float]) -> None:
        """Values of one step, each number to five digits."""
        line = {"step": step, **{name: float(f"{value:.5g}") for name, value in values.items()}}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        logger.info("%s  %s", self.path.stem, "  ".join(f"{name} {value:g}" for name, value in line.items()))

    def lines(self) -> list[dict[str, float]]:
        """All lines so far. A line that a kill cut off is left out."""
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]

    def rewind(self, step: int) -> None:
        """Forget what was written after `step`: a training that resumes there writes it again."""
        kept = [json.dumps(line) + "\n" for line in self.lines() if line["step"] <= step]
        self.path.write_text("".join(kept), encoding="utf-8")
