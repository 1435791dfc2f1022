"""Pictures for a look at a training: the same prompts and seeds each time, as a sheet."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ..pipeline.pipeline import SanaPipeline, Texts
from ..pipeline.record import picture_record
from ..pipeline.request import Request, Resolved
from ..samplers.denoiser import EncodedText
from .average import Average
from .material import Caches

LARGEST = 2048  # pixels, the longer side of a sheet
GAP = 4


class Samples:
    """Draws prompts with the network that is trained, from text states that are encoded already.

    pipeline: its text encoder and its autoencoder are not used. decode: latents of about unit variance -> pictures.
    records: of what is drawn, as in saved pictures.
    """

    def __init__(
        self,
        pipeline: SanaPipeline,
        prompts: Sequence[str],
        caches: Caches,
        decode: Callable[[Tensor], list[Image.Image]],
        *,
        seed: int = 0,
    ) -> None:
        self.pipeline, self.caches, self.decode = pipeline, caches, decode
        self.runs = [pipeline.resolve(prompt, seed=seed) for prompt in prompts]
        self.records = [picture_record(Request(prompt), run, 0) for prompt, run in zip(prompts, self.runs)]

    @torch.no_grad()
    def __call__(self) -> list[Image.Image]:
        return [picture for run in self.runs for picture in self._draw(run)]

    def _draw(self, run: Resolved) -> list[Image.Image]:
        return self.decode(self.pipeline.sample(run, self._texts(run), self.pipeline.start(run)))

    def _texts(self, run: Resolved) -> Texts:
        unguided = run.guidance_scale == 1.0 or self.pipeline.transformer.config.guidance_embed
        return self._states(run.prompt[0]), None if unguided else self._states(None)

    def _states(self, text: str | None) -> EncodedText:
        dtype = self.pipeline.transformer.scale_shift_table.dtype
        return self.caches.state(text)[None].to(self.pipeline.device, dtype), None


class SampleSheets:
    """The report of a training: draws with the average where there is one, and saves the sheet. Its text `sana` is a
    JSON object of the step and the records of the pictures.
    """

    def __init__(self, draw: Samples, folder: Path, average: Average | None, *, write: bool) -> None:
        """write: is this the process that writes files?"""
        self.draw, self.folder, self.average, self.write = draw, folder, average, write
        self.heard: Callable[[int, Image.Image], None] | None = None

    def __call__(self, step: int) -> dict[str, float]:
        if self.average is None:
            pictures = self.draw()
        else:
            with self.average.applied():
                pictures = self.draw()
        if pictures and self.write:
            sheet = joined(pictures)
            self.folder.mkdir(parents=True, exist_ok=True)
            info = PngInfo()
            info.add_text("sana", json.dumps({"step": step, "pictures": self.draw.records}))
            sheet.save(self.folder / f"{step:07}.png", pnginfo=info)
            if self.heard:
                self.heard(step, sheet)
        return {}


def joined(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures side by side, in about a square, made smaller where that is needed."""
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    width, height = (max(picture.size[axis] for picture in pictures) for axis in (0, 1))
    sheet = Image.new("RGB", (columns * (width + GAP) - GAP, rows * (height + GAP) - GAP), "white")
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        sheet.paste(picture, (column * (width + GAP), row * (height + GAP)))
    sheet.thumbnail((LARGEST, LARGEST))
    return sheet
