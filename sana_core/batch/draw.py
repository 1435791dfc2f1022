"""Rows to pictures: texts first, then batches of rows that have all else in common.

A batch always has the same number of rows: the last one of a group is filled up with a row that is drawn twice. So a
picture has the same bytes wherever its row stands, as long as the device computes the rows of a batch alike.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import InputError, SanaError
from ..pictures.images import open_picture
from ..pictures.modes import grey
from ..pictures.soft_edge import soft_edge
from ..pipeline.hints import hints
from ..pipeline.pipeline import SanaPipeline
from ..pipeline.record import picture_record
from ..pipeline.request import Request, Resolved
from ..prompts.values import PICTURES
from ..samplers.denoiser import EncodedText
from ..shortage import out_of_memory
from .ahead import overlapped
from .rows import Row
from .texts import Text, batch_of, encode_texts, rounded

log = logging.getLogger("sana")
OWN = {"prompt", "negative_prompt", "seed", *PICTURES}  # what may differ between the rows of a batch


class Drawn(NamedTuple):
    """A picture of a row, and how it was made.

    end: of its name, where a row has several pictures. The one without an end comes last: it says that the row is done.
    """

    row: Row
    picture: Image.Image
    record: dict[str, Any]
    end: str = ""


class Failed(NamedTuple):
    """A row without a picture."""

    row: Row
    reason: str


DrawRows: TypeAlias = Callable[[Sequence[Row]], Iterator[Drawn | Failed]]
"""Draws rows, and yields what became of each, in any order that depends on the rows alone."""


class Ready(NamedTuple):
    """A row with nothing left open but its pictures, which are read when it is drawn, and its encoded texts (L, C)."""

    row: Row
    run: Resolved
    prompt: Tensor
    negative: Tensor | None

    @property
    def length(self) -> int:
        """Tokens of its texts, rounded up."""
        return rounded(max(len(self.prompt), 0 if self.negative is None else len(self.negative)))

    @property
    def alike(self) -> tuple[Any, ...]:
        """What rows of a batch have in common."""
        values = [getattr(self.run, item.name) for item in fields(Resolved) if item.name not in OWN]
        return (*values, *(getattr(self.row.request, name) is not None for name in PICTURES), self.length)


@dataclass(kw_only=True)
class Drawing:
    """Draws rows with a pipeline: a `DrawRows`.

    batch: rows of one forward. record: what every picture records of the model. soft_edge: "soft" or "thin" to prepare
    control pictures.
    """

    pipeline: SanaPipeline
    batch: int = 4
    record: Mapping[str, Any] = field(default_factory=lambda: {"model": "SANA"})
    soft_edge: str | None = None
    hinted: set[str] = field(default_factory=set, init=False)

    def __call__(self, rows: Sequence[Row]) -> Iterator[Drawn | Failed]:
        resolved: list[tuple[Row, Resolved]] = []
        for row in rows:
            try:
                resolved.append((row, replace(self.resolved(row.request), **dict.fromkeys(PICTURES))))
            except SanaError as error:
                yield Failed(row, str(error))
        latents = self._sampled(self._ready(resolved))
        decoded = map(self._decoded, latents) if self.pipeline.offload else overlapped(self._decoded, latents)
        for items in decoded:
            yield from items

    def resolved(self, request: Request) -> Resolved:
        """A request with nothing left open, as the pipeline draws it. Each hint is told once. Raises InputError."""
        if self.soft_edge is not None and request.control_image is not None:
            picture = grey(open_picture(_path(request.control_image)))
            pixels = torch.from_numpy(np.array(picture)).float() / 255.0
            request = request.changed(control_image=soft_edge(pixels[None, None], thin=self.soft_edge == "thin"))
        run = self.pipeline.resolve(request)
        for hint in hints(run, self.pipeline.defaults):
            if hint not in self.hinted:
                self.hinted.add(hint)
                log.info(hint)
        return run

    def _ready(self, resolved: Sequence[tuple[Row, Resolved]]) -> list[Ready]:
        """The rows with their encoded texts."""
        prompts = {row.id: Text(run.prompt[0], run.instruction) for row, run in resolved}
        states = encode_texts(self.pipeline, prompts.values())
        negatives: dict[str, Text] = {}
        for row, run in resolved:
            if run.guidance_scale != 1.0 and not self.pipeline.transformer.config.guidance_embed:
                length = len(states[prompts[row.id]]) if run.negative_mask == "positive" else None
                negatives[row.id] = Text(run.negative_prompt[0], None, length)
        states |= encode_texts(self.pipeline, negatives.values())
        return [
            Ready(row, run, states[prompts[row.id]], states[negatives[row.id]] if row.id in negatives else None)
            for row, run in resolved
        ]

    def _sampled(self, rows: Sequence[Ready]) -> Iterator[list[tuple[Ready, Tensor] | Failed]]:
        for batch in batches(rows, self.batch):
            read, failed = self._with_pictures(batch)
            yield [*failed, *(self._latents(read, self.batch) if read else ())]

    def _with_pictures(self, rows: Sequence[Ready]) -> tuple[list[Ready], list[Failed]]:
        read: list[Ready] = []
        failed: list[Failed] = []
        for row in rows:
            request = row.row.request
            try:
                given = any(getattr(request, name) is not None for name in PICTURES)
                read.append(row._replace(run=self.resolved(request)) if given else row)
            except SanaError as error:  # its file has gone meanwhile
                failed.append(Failed(row.row, str(error)))
        return read, failed

    def _latents(self, rows: Sequence[Ready], size: int) -> list[tuple[Ready, Tensor] | Failed]:
        """The latents of a batch; of its halves, if memory runs out."""
        try:
            latents = self._sample([*rows, *(rows[-1] for _ in range(size - len(rows)))])
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            reason = f"out of memory ({str(error).partition(chr(10))[0]})"
        else:
            return [
                (row, latent[None]) if latent.isfinite().all() else Failed(row.row, "its latents are not finite")
                for row, latent in zip(rows, latents)
            ]
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if size == 1:
            return [Failed(row.row, reason) for row in rows]
        half = (size + 1) // 2
        log.warning("out of memory with %d rows at a time: trying %d", size, half)
        return [item for start in range(0, len(rows), half) for item in self._latents(rows[start : start + half], half)]

    def _sample(self, rows: Sequence[Ready]) -> Tensor:
        run = together([row.run for row in rows])
        length, device = rows[0].length, self.pipeline.device
        negative: EncodedText | None = None
        if rows[0].negative is not None:
            negative = batch_of([row.negative for row in rows if row.negative is not None], length, device)
        prompt = batch_of([row.prompt for row in rows], length, device)
        return self.pipeline.sample(run, (prompt, negative), self.pipeline.start(run))

    def _decoded(self, items: Iterable[tuple[Ready, Tensor] | Failed]) -> list[Drawn | Failed]:
        return [item if isinstance(item, Failed) else self._picture(*item) for item in items]

    def _picture(self, ready: Ready, latent: Tensor) -> Drawn | Failed:
        try:
            (picture,) = self.pipeline.decode(latent)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            return Failed(ready.row, f"out of memory ({str(error).partition(chr(10))[0]})")
        record = picture_record(ready.row.request, ready.run, 0)
        return Drawn(ready.row, picture, {"id": ready.row.id, **record, **self.record})


def batches(rows: Sequence[Ready], size: int) -> Iterator[Sequence[Ready]]:
    """Rows that can be drawn together, at most `size` at a time."""
    groups: dict[tuple[Any, ...], list[Ready]] = defaultdict(list)
    for row in rows:
        groups[row.alike].append(row)
    for group in groups.values():
        yield from (group[start : start + size] for start in range(0, len(group), size))


def together(runs: Sequence[Resolved]) -> Resolved:
    """Runs of one picture each, alike in all but OWN, as one run of all."""
    pictures: dict[str, Any] = {}
    for name in PICTURES:
        if getattr(runs[0], name) is not None:
            pictures[name] = torch.cat([getattr(run, name) for run in runs])
    return replace(
        runs[0],
        prompt=tuple(prompt for run in runs for prompt in run.prompt),
        negative_prompt=tuple(prompt for run in runs for prompt in run.negative_prompt),
        seeds=tuple(run.seed for run in runs),
        **pictures,
    )


def _path(picture: Any) -> str:
    if not isinstance(picture, str):
        raise InputError("soft edges are made of a control picture that is a file")
    return picture
