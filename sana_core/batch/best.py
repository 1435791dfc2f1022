"""The best of many candidates for each row, see `scoring/select.py`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ..errors import InputError, SanaError
from ..pipeline.record import picture_record
from ..prompts.values import shown
from ..scoring.candidates import draw_candidates
from ..scoring.scorer import Scorer
from ..scoring.select import candidate_seeds, select
from ..shortage import out_of_memory
from .draw import Drawing, Drawn, Failed
from .rows import Row, one_file


def end_of(rank: int) -> str:
    """Of the name of the picture that is first, second ... of its row."""
    return "" if rank == 1 else f"-best{rank}"


def check_names(rows: Sequence[Row], keep: int) -> None:
    """Raise InputError if one of the `keep` pictures of a row would have the name of another row."""
    ids, files = {row.id: row for row in rows}, {one_file(row.file): row for row in rows}
    for row in rows:
        for end in map(end_of, range(2, keep + 1)):
            other = ids.get(row.id + end) or files.get(one_file(row.file + end))
            if other is not None:
                raise InputError(
                    f"{other.where}: {shown(other.id)} is what another picture of {row.where} is called, since {keep} "
                    f"of each row are kept: give it another id or file"
                )


@dataclass(frozen=True, kw_only=True)
class BestOf:
    """Draws `count` candidates of each row, as many at once as `drawing` draws rows, and yields the `keep` best: a
    `DrawRows`. name: of the scorer, for records.

    The first candidate has the seed of its row. The best picture has the name of the row, the others end in -best2 and
    so on. A row whose scorer fails keeps its first candidates.
    """

    drawing: Drawing
    scorer: Scorer
    name: str
    count: int
    keep: int = 1

    def __call__(self, rows: Sequence[Row]) -> Iterator[Drawn | Failed]:
        for row in rows:
            try:
                yield from self._best(row)
            except SanaError as error:
                yield Failed(row, str(error))
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                yield Failed(row, f"out of memory ({str(error).partition(chr(10))[0]}): draw a smaller --batch")

    def _best(self, row: Row) -> list[Drawn]:
        run = self.drawing.resolved(row.request)
        found = select(
            draw_candidates(self.drawing.pipeline, run),
            candidate_seeds(run.seed, self.count),
            run.prompt[0],
            self.scorer,
            keep=self.keep,
            at_once=self.drawing.batch,
        )
        made = []
        for rank, kept in enumerate(found.best, start=1):
            record = {
                "id": row.id,
                **picture_record(row.request, replace(run, seed=kept.seed), 0),
                **kept.record(rank, self.count, self.name),
                **self.drawing.record,
            }
            made.append(Drawn(row, kept.picture, record, end_of(rank)))
        return made[::-1]  # the one without an end comes last
