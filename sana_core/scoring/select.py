"""The best of many candidates, drawn in rounds: memory holds the best ones and one round, however many there are."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from PIL import Image

from ..errors import InputError
from ..seeds import derived_seed
from .scorer import Score, Scorer, scores_of

log = logging.getLogger("sana")
ROUND = 8  # pictures that are drawn and scored together
FAILED = 3  # rounds in a row without a score, after which no more are drawn
Drawn: TypeAlias = "tuple[Image.Image, Any]"  # a picture, and what is to be kept with it, such as its latent
Draw: TypeAlias = "Callable[[Sequence[int]], Sequence[Drawn]]"  # seeds -> what they draw, in their order


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """index: which one it is, from 0. latent: what was drawn with the picture. score: None where the scorer failed."""

    index: int
    seed: int
    picture: Image.Image
    latent: Any
    score: Score | None

    def record(self, rank: int, best_of: int, scorer: str) -> dict[str, Any]:
        """What is recorded of it beside its own settings. rank: from 1. scorer: its name."""
        score = None if self.score is None else float(self.score)
        return {"score": score, "rank": rank, "best_of": best_of, "scorer": scorer}


@dataclass(kw_only=True)
class Selection:
    """best: the kept candidates, the best first; equal ones in the order of their seeds, those without a score last.
    seeds, scores: of all that were drawn. failures: what was wrong with the scorer, each message once.
    """

    best: list[Candidate] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    scores: list[float | None] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def check_numbers(best_of: int, keep: int) -> None:
    """Raise InputError if so many cannot be kept of so many."""
    if best_of < 1 or keep < 1:
        raise InputError(f"best of {best_of}, of which {keep} are kept: expected at least 1 of each")
    if keep > best_of:
        raise InputError(f"{keep} pictures cannot be kept of {best_of}: keep fewer, or draw more")


def candidate_seeds(seed: int, best_of: int) -> list[int]:
    """The seeds of the candidates. The first is the request's own, so the best of 1 is the plain picture."""
    return [seed if index == 0 else derived_seed(seed, index) for index in range(best_of)]


def select(
    draw: Draw,
    seeds: Sequence[int],
    prompt: str,
    scorer: Scorer,
    *,
    keep: int = 1,
    at_once: int = ROUND,
    progress: Callable[[int], None] | None = None,
) -> Selection:
    """Draw a picture for each seed, in rounds of at most `at_once`, and keep the best.

    progress: called with the number of pictures that are done. A scorer that fails costs no picture: its pictures have
    no score, a warning says why, and they are kept where no scored ones are, the first seeds first. After 3 rounds in
    a row without any score the others are not drawn. Raises InputError before anything is drawn.
    """
    check_numbers(len(seeds), keep)
    found, failed = Selection(), 0
    for part in _parts(seeds, at_once):
        scored = _round(found, draw, part, prompt, scorer, keep)
        if progress is not None:
            progress(len(found.seeds))
        failed = 0 if scored else failed + 1
        if failed >= FAILED and keep <= len(found.seeds) < len(seeds):
            log.warning(
                "the scorer failed %d times in a row: %d of %d candidates were drawn",
                failed,
                len(found.seeds),
                len(seeds),
            )
            break
    return found


def _round(found: Selection, draw: Draw, seeds: Sequence[int], prompt: str, scorer: Scorer, keep: int) -> bool:
    """Draw, score, keep the best. Did any picture get a score? A function of its own, so that nothing of a round stays
    for the next.
    """
    drawn = draw(seeds)
    scores, wrong = scores_of(scorer, [picture for picture, _ in drawn], prompt)
    if wrong is not None and wrong not in found.failures:
        found.failures.append(wrong)
        log.warning("%s: its pictures stay without a score", wrong)
    for seed, (picture, latent), score in zip(seeds, drawn, scores):
        candidate = Candidate(index=len(found.seeds), seed=seed, picture=picture, latent=latent, score=score)
        _insert(found.best, candidate, keep)
        found.seeds.append(seed)
        found.scores.append(None if score is None else float(score))
    return any(score is not None for score in scores)


def _parts(seeds: Sequence[int], at_once: int) -> Iterator[Sequence[int]]:
    return (seeds[start : start + at_once] for start in range(0, len(seeds), at_once))


def _insert(best: list[Candidate], candidate: Candidate, keep: int) -> None:
    """Put it behind the last one that it does not beat; the last of too many goes."""
    place = next((at for at, other in enumerate(best) if _beats(candidate.score, other.score)), len(best))
    best.insert(place, candidate)
    del best[keep:]


def _beats(score: Any, other: Any) -> bool:
    return score is not None and (other is None or score > other)
