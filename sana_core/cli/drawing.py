"""A loaded model that draws requests and saves the pictures: once for a command, line by line in a session."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..pictures.images import open_picture
from ..pictures.modes import grey
from ..pictures.soft_edge import soft_edge
from ..pipeline.hints import hints
from ..pipeline.pipeline import SanaPipeline
from ..pipeline.record import picture_record
from ..pipeline.request import Request, Resolved
from ..samplers.types import StepCallback
from .best import BestOf
from .names import Output
from .output import say, say_json, tell
from .preview import preview_map, shown
from .progress import Show, bar

log = logging.getLogger("sana")
Draw = Callable[[SanaPipeline, Resolved, StepCallback | None], list[Image.Image]]


@dataclass(kw_only=True)
class Drawing:
    """draw: makes the pictures of one request. record: what every picture records of the model. soft_edge: "soft" or
    "thin" to prepare control pictures. best: in place of all pictures save the best of many. preview: a file that shows
    unfinished pictures.
    """

    pipeline: SanaPipeline
    output: Output
    draw: Draw
    record: dict[str, Any]
    soft_edge: str | None = None
    best: BestOf | None = None
    preview: Path | None = None
    quiet: bool = False
    as_json: bool = False

    def __post_init__(self) -> None:
        self._colours = None if self.preview is None else preview_map(self.pipeline)

    def __call__(self, requests: Sequence[Request]) -> None:
        """Draw and save them. Whatever can be refused is refused before the first picture."""
        counts = [self._resolved(request).count for request in requests]
        total = sum(counts) if self.best is None else self.best.keep * len(counts)
        done = 0
        for request in requests:
            run = self._resolved(request)
            for hint in hints(run, self.pipeline.defaults):
                log.info(hint)
            started = time.perf_counter()
            label = f"{done + 1}/{total}"
            with bar(label, quiet=self.quiet) as show:
                pictures = self._pictures(run, show)
            seconds = (time.perf_counter() - started) / max(len(pictures), 1)
            for index, (picture, alone, more) in enumerate(pictures):
                done += 1
                record = picture_record(request, alone, index if alone.batch_size > 1 else 0) | more | self.record
                path = self.output.save(picture, record, batch=alone.batch_size)
                self._tell(f"{done}/{total}", path, record, seconds)
            if self.best is not None:
                self.best.write()
        if self.best is not None:
            self.best.check(len(requests))

    def _pictures(self, run: Resolved, show: Show | None) -> list[tuple[Image.Image, Resolved, dict[str, Any]]]:
        """What is saved of a request: the picture, the run it is of, and what its record says besides."""
        if self.best is None:
            return [(picture, run, {}) for picture in self.draw(self.pipeline, run, self._callback(run, show))]
        made = self.best(self.pipeline, run, self._callback(run, show, self.best.rounds(run)))
        return self.best.records(run, made)

    def _resolved(self, request: Request) -> Resolved:
        if self.soft_edge is not None and request.control_image is not None:
            picture = grey(open_picture(_path(request.control_image)))
            pixels = torch.from_numpy(np.array(picture)).float() / 255.0
            edges = soft_edge(pixels[None, None], thin=self.soft_edge == "thin")
            request = request.changed(control_image=edges)
        return self.pipeline.resolve(request)

    def _callback(self, run: Resolved, show: Show | None, rounds: int = 1) -> StepCallback | None:
        steps, done = rounds * (len(run.sigmas()) - 1), count(1)
        moved: StepCallback | None = None if show is None else lambda *_: show(next(done), steps)
        if self.preview is None or self._colours is None:
            return moved
        return shown(self.preview, self._colours, moved)

    def _tell(self, label: str, path: Path, record: dict[str, Any], seconds: float) -> None:
        if not self.quiet:
            size = f"{record['width']}x{record['height']}"
            score = f", score {record['score']:.4g}" if record.get("score") is not None else ""
            tell(f"{label}: seed {record['seed']}, {size}, {record['steps']} steps, {seconds:.1f} s{score}")
        if self.as_json:
            say_json({"file": str(path), **record, "seconds": round(seconds, 3)})
        elif not self.quiet:
            say(str(path))


def _path(picture: Any) -> Path:
    return Path(picture)
