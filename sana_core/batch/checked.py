"""Rows whose prompts are checked before they are drawn, see `safety/check.py`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from ..errors import RefusedError, SanaError
from ..safety import PromptCheck
from .draw import Drawn, DrawRows, Failed
from .rows import Row


@dataclass(frozen=True, kw_only=True)
class Checked:
    """Draws the rows that a check lets pass, and yields the others as failed: a `DrawRows`."""

    draw: DrawRows
    check: PromptCheck

    def __call__(self, rows: Sequence[Row]) -> Iterator[Drawn | Failed]:
        check, passed = self._read({str(row.request.prompt) for row in rows}), []
        for row in rows:
            try:
                (request,) = check.applied([row.request])
                passed.append(replace(row, request=request))
            except RefusedError:
                (verdict,) = check.verdicts([str(row.request.prompt)])
                why = f"probability {verdict.probability:.3f}, above the threshold {verdict.threshold:g}"
                yield Failed(row, f"its prompt is against the policy of the check (ShieldGemma): {why}")
            except SanaError as error:
                yield Failed(row, f"its prompt cannot be checked ({error})")
        # a row whose prompt was replaced and that fails keeps its own, to be drawn again
        own = {row.id: row for row in rows}
        for item in self.draw(passed):
            yield item._replace(row=own[item.row.id]) if isinstance(item, Failed) else item

    def _read(self, prompts: set[str]) -> PromptCheck:
        """The check, with all these prompts read at once: the network comes to the card for that alone. One that cannot
        be read is asked for again, and fails alone.
        """
        known: dict[str, float] = {}
        with suppress(SanaError):
            known = dict(zip(sorted(prompts), self.check.shield(sorted(prompts), None)))
        shield = self.check.shield

        def remembered(texts: Sequence[str], progress: object) -> list[float]:
            return [known[text] if text in known else shield([text], None)[0] for text in texts]

        return replace(self.check, shield=remembered)
