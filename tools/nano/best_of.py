"""Best of N with a scorer whose answer is known: is the asked couple the nearest of all things, in the latent space?

    python -m tools.nano.best_of WORK --files sana_core/nano --size 256_cpu

Draws held-out couples of things twice: the best of 1, 2, 4 ... candidates, chosen by `sana_core.scoring.select`, and
as many candidates again from other seeds. How often a single one of those is right says by order statistics how often
the best of N should be. Writes a table as JSON to stdout. WORK as for `tools.nano.folders`.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import torch
from PIL import Image

from sana_core.pictures.images import picture_tensor
from sana_core.scoring import candidate_seeds, draw_candidates, select
from sana_core.scoring.expected import expected_best, numbers

from .captions import Caption
from .command import from_arguments, parser
from .evaluation import Evaluation
from .retrieval import Gallery
from .scenes import Scene

log = logging.getLogger("nano")
OTHER = 1_000_000  # added to the seed for the candidates that only predict


@dataclass(frozen=True)
class RetrievalScorer:
    """How many things are nearer than the asked ones, negative: 0 is right. scenes: what each prompt asks for."""

    gallery: Gallery
    scenes: dict[str, Scene]

    def __call__(self, pictures: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
        pixels = torch.cat([picture_tensor(picture, picture.width, picture.height) for picture in pictures])
        return (-self.gallery.ranks(pixels, [self.scenes[prompt] for prompt in prompts])["latent"]).tolist()


@dataclass(frozen=True)
class Couple:
    """right: of the best of each number of candidates. others: of single ones from other seeds."""

    right: dict[int, bool]
    others: list[bool]


def drawn(run: Evaluation, caption: Caption, seed: int, best_of: int, scorer: RetrievalScorer) -> Couple:
    request = run.base.resolve(caption.text, seed=seed)
    draw = draw_candidates(run.base, request)
    first = candidate_seeds(seed, best_of)
    made = dict(zip(first, draw(first)))
    right = {}
    for count in numbers(best_of):
        seeds = candidate_seeds(seed, count)
        found = select(lambda part: [made[seed] for seed in part], seeds, caption.text, scorer)
        right[count] = found.best[0].score == 0
    others = select(draw, candidate_seeds(seed + OTHER, best_of), caption.text, scorer, at_once=best_of)
    return Couple(right, [score == 0 for score in others.scores])


def table(couples: Sequence[Couple]) -> list[dict[str, float]]:
    """Shares in 0..1 with the standard error of measured - predicted over the couples.

    predicted: the chance that some of N candidates is right, from the single ones, without bias. plain: the same by
    1 - (1 - p)^N with p their share, which is too low for large N.
    """
    rows = []
    for count in couples[0].right:
        measured = [float(couple.right[count]) for couple in couples]
        predicted = [expected_best([float(right) for right in couple.others], count) for couple in couples]
        plain = [1.0 - (1.0 - mean(map(float, couple.others))) ** count for couple in couples]
        error = stdev(one - other for one, other in zip(measured, predicted)) / len(couples) ** 0.5
        rows.append(
            {"n": count, "measured": mean(measured), "predicted": mean(predicted), "plain": mean(plain), "error": error}
        )
    return rows


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--files", type=Path, required=True, help="folder of the embedded files")
    arguments.add_argument("--limit", type=int, default=48, help="couples")
    arguments.add_argument("--best-of", type=int, default=16)
    args = arguments.parse_args()
    run = Evaluation(command=from_arguments(args), files=args.files, limit=args.limit, seeds=(0,))
    captions, started = run.sets["held-out couples"], time.perf_counter()
    scorer = RetrievalScorer(run.gallery, {caption.text: caption.scene for caption in captions})
    couples = []
    for index, caption in enumerate(captions):
        couples.append(drawn(run, caption, index, args.best_of, scorer))
        log.info("%d/%d: %s, right %s", index + 1, len(captions), caption.text, couples[-1].right)
    report = {"couples": len(couples), "minutes": (time.perf_counter() - started) / 60, "shares": table(couples)}
    json.dump(report, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
