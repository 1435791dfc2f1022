"""A loaded model that draws requests and saves the pictures: once for a command, line by line in a session."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..pictures.images import open_picture
from ..pictures.modes import grey
from ..pictures.soft_edge import soft_edge
from ..pipeline.pipeline import SanaPipeline
from ..pipeline.request import Request, Resolved
from ..samplers.types import StepCallback
from .hints import tell_hints
from .names import Output
from .output import say, say_json, tell
from .preview import preview_map, shown
from .progress import Show, bar
from .record import picture_record

Draw = Callable[[SanaPipeline, Resolved, StepCallback | None], list[Image.Image]]


@dataclass(kw_only=True)
class Drawing:
    """draw: makes the pictures of one request. record: what every picture records of the model. soft_edge: "soft" or
    "thin" to prepare control pictures. preview: a file that shows unfinished pictures.
    """

    pipeline: SanaPipeline
    output: Output
    draw: Draw
    record: dict[str, Any]
    soft_edge: str | None = None
    preview: Path | None = None
    quiet: bool = False
    as_json: bool = False

    def __post_init__(self) -> None:
        self._colours = None if self.preview is None else preview_map(self.pipeline)

    def __call__(self, requests: Sequence[Request]) -> None:
        """Draw and save them. Whatever can be refused is refused before the first picture."""
        total = sum(self._resolved(request).count for request in requests)
        done = 0
        for request in requests:
            run = self._resolved(request)
            tell_hints(run, self.pipeline.defaults)
            started = time.perf_counter()
            label = f"{done + 1}/{total}"
            with bar(label, quiet=self.quiet) as show:
                pictures = self.draw(self.pipeline, run, self._callback(run, show))
            seconds = (time.perf_counter() - started) / max(len(pictures), 1)
            for index, picture in enumerate(pictures):
                done += 1
                record = picture_record(request, run, index) | self.record
                path = self.output.save(picture, record)
                self._tell(f"{done}/{total}", path, record, seconds)

    def _resolved(self, request: Request) -> Resolved:
        if self.soft_edge is not None and request.control_image is not None:
            picture = grey(open_picture(_path(request.control_image)))
            pixels = torch.from_numpy(np.array(picture)).float() / 255.0
            edges = soft_edge(pixels[None, None], thin=self.soft_edge == "thin")
            request = request.changed(control_image=edges)
        return self.pipeline.resolve(request)

    def _callback(self, run: Resolved, show: Show | None) -> StepCallback | None:
        steps = len(run.sigmas()) - 1
        moved: StepCallback | None = None if show is None else lambda index, *_: show(index + 1, steps)
        if self.preview is None or self._colours is None:
            return moved
        return shown(self.preview, self._colours, moved)

    def _tell(self, label: str, path: Path, record: dict[str, Any], seconds: float) -> None:
        if not self.quiet:
            size = f"{record['width']}x{record['height']}"
            tell(f"{label}: seed {record['seed']}, {size}, {record['steps']} steps, {seconds:.1f} s")
        if self.as_json:
            say_json({"file": str(path), **record, "seconds": round(seconds, 3)})
        elif not self.quiet:
            say(str(path))


def _path(picture: Any) -> Path:
    return Path(picture)
