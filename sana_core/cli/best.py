"""The option --best-of: many candidates of each request, of which the best are saved."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from ..device import pick_device
from ..errors import InputError
from ..pipeline.pipeline import SanaPipeline
from ..pipeline.request import Resolved
from ..samplers.types import StepCallback
from ..scoring.candidates import draw_candidates
from ..scoring.expected import expected_best, numbers
from ..scoring.load import FORMS, load_scorer
from ..scoring.plot import score_plot
from ..scoring.scorer import Scorer
from ..scoring.select import Selection, candidate_seeds, check_numbers, select
from ..whole_files import explained, whole_file
from .names import check_place

PLOT, TABLE = ".png", ".json"


@dataclass(kw_only=True)
class BestOf:
    """name: of the scorer, for records. scores: files that tell the scores of all candidates. told: what they tell of
    each request so far, without its pictures.
    """

    scorer: Scorer
    name: str
    count: int
    keep: int
    scores: list[Path]
    told: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, pipeline: SanaPipeline, run: Resolved, callback: StepCallback | None) -> Selection:
        """The best candidates of a request, drawn `batch_size` at once."""
        seeds, draw = candidate_seeds(run.seed, self.count), draw_candidates(pipeline, run, callback)
        made = select(draw, seeds, run.prompt[0], self.scorer, keep=self.keep, at_once=run.batch_size)
        self.told.append(_told(run, made))
        return made

    def rounds(self, run: Resolved) -> int:
        return -(-self.count // run.batch_size)

    def records(self, run: Resolved, made: Selection) -> list[tuple[Image.Image, Resolved, dict[str, Any]]]:
        """Each kept picture with the run that draws it alone, and what its record says besides."""
        return [
            (kept.picture, replace(run, seed=kept.seed, batch_size=1), kept.record(rank, self.count, self.name))
            for rank, kept in enumerate(made.best, 1)
        ]

    def write(self) -> None:
        """The files of the scores, as far as the requests are drawn."""
        for path in self.scores:
            with explained(path), whole_file(path) as partial:
                WRITERS[path.suffix.lower()](self, partial)

    def check(self, requests: int) -> None:
        """Raise InputError if no candidate of one of the last so many requests has a score; all are saved by then."""
        failed = [told for told in self.told[-requests:] if requests and not told["expected_best"]]
        if failed:
            raise InputError(
                f"{failed[-1]['failures'][0]}: {len(failed)} of {requests} prompts have no scores, and their first "
                f"{self.keep} candidates were saved"
            )

    def plot(self, path: Path) -> None:
        score_plot([[entry["score"] for entry in request["scores"]] for request in self.told]).save(path, "PNG")

    def table(self, path: Path) -> None:
        table = {"scorer": self.name, "best_of": self.count, "keep": self.keep, "requests": self.told}
        path.write_text(json.dumps(table, indent=1) + "\n", "utf-8")


WRITERS: dict[str, Callable[[BestOf, Path], None]] = {PLOT: BestOf.plot, TABLE: BestOf.table}


def _told(run: Resolved, made: Selection) -> dict[str, Any]:
    scored = [score for score in made.scores if score is not None]
    return {
        "prompt": run.prompt[0],
        "seed": run.seed,
        "scores": [{"seed": seed, "score": score} for seed, score in zip(made.seeds, made.scores)],
        "expected_best": {count: expected_best(scored, count) for count in numbers(len(scored))},
        "failures": made.failures,
    }


def check_best_of(args: argparse.Namespace) -> None:
    """Raise InputError for options that do not go together, and for files that cannot be written."""
    if args.best_of is None:
        if given := [
            f"--{name}" for name in ("keep", "scorer", "scores") if getattr(args, name, None) not in (None, [])
        ]:
            raise InputError(f"{given[0]} is about --best-of N: give it, too")
        return
    if args.scorer is None:
        raise InputError(f"--best-of needs a --scorer, one of {FORMS}")
    check_numbers(args.best_of, 1 if args.keep is None else args.keep)
    for path in getattr(args, "scores", ()):
        if path.suffix.lower() not in WRITERS:
            raise InputError(f"--scores {path}: expected a file that ends with {' or '.join(WRITERS)}")
        check_place(path, "--scores")


def load_best_of(args: argparse.Namespace) -> BestOf | None:
    """The option with its scorer, None without it. Raises InputError and CheckpointError."""
    if args.best_of is None:
        return None
    return BestOf(
        scorer=chosen_scorer(args),
        name=scorer_name(args),
        count=args.best_of,
        keep=args.keep or 1,
        scores=args.scores,
    )


def chosen_scorer(args: argparse.Namespace) -> Scorer:
    """Raises InputError and CheckpointError."""
    return load_scorer(args.scorer, pick_device(args.device), verifier_python=args.verifier_python)


def scorer_name(args: argparse.Namespace) -> str:
    """For records: without folders of the user."""
    kind, _, name = args.scorer.partition(":")
    return f"{kind}:{Path(name).name}"
