"""What a scorer is, and one that can fail without a loss."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

from PIL import Image

from ..errors import SanaError, safe_line
from .verdict import Verdict

log = logging.getLogger("sana")
Score: TypeAlias = "float | Verdict"  # the higher, the better, by `>`


class Scorer(Protocol):
    """How well pictures suit their prompts.

    Pictures and prompts are as many; the answer is a number for each picture, the higher the better, or a `Verdict`.
    Any function of this form will do.
    """

    def __call__(self, pictures: Sequence[Image.Image], prompts: Sequence[str], /) -> Sequence[Any]: ...


def scores_of(scorer: Scorer, pictures: Sequence[Image.Image], prompt: str) -> tuple[list[Score | None], str | None]:
    """The scores of pictures of one prompt, None for a picture without one; and what is wrong, None if nothing is.

    A scorer may raise, or answer nonsense: this never does.
    """
    try:
        given = list(scorer(pictures, [prompt] * len(pictures)))
    except Exception as error:
        said = str(error) if isinstance(error, SanaError) else f"{type(error).__name__}: {error}"
        return [None] * len(pictures), safe_line(f"the scorer failed ({said})")
    if len(given) != len(pictures):
        return [None] * len(pictures), f"the scorer gave {len(given)} scores for {len(pictures)} pictures"
    scores = [_score(value) for value in given]
    wrong = [repr(value) for value, score in zip(given, scores) if score is None]
    return scores, safe_line(f"the scorer gave {wrong[0]:.80} where a number belongs") if wrong else None


def _score(value: Any) -> Score | None:
    try:
        number = math.nan if isinstance(value, (str, bytes)) else float(value)
    except Exception:  # of many types, as a scorer's values are
        return None
    if math.isnan(number) or (math.isinf(number) and not isinstance(value, Verdict)):
        return None
    return value if isinstance(value, Verdict) else number
