"""What NVIDIA's verifier says of a picture, and who wins a duel: the tournament of SANA-1.5's inference-time scaling.

The rule is that of upstream's tools/inference_scaling. It compares two pictures at a time, yet it asks about each of
them alone. So a picture is asked about once, and its verdict is compared with that of every other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, eq=False)
class Verdict:
    """Does the picture show the prompt? yes, no: the logits of the two words where the answer begins.

    `first > second` is the duel. It orders all verdicts, so a tournament of any form has the same winners. float() is
    a number in 0..1 of the same order, for plots and records: above 0.5 the answer is yes.
    """

    answer: bool
    yes: float
    no: float

    def __gt__(self, other: Verdict) -> bool:
        """Does the picture win against the other? Only one is a yes: it wins. Both: the higher logit of yes. None: the
        lower logit of no. Equal ones: nobody wins.
        """
        if self.answer != other.answer:
            return self.answer
        return self.yes > other.yes if self.answer else self.no < other.no

    def __float__(self) -> float:
        return 0.5 + 0.5 * _unit(self.yes) if self.answer else 0.5 * _unit(-self.no)


def _unit(logit: float) -> float:
    """A number of any size in 0..1, in the same order. A sigmoid would round the logits of sure answers to 1."""
    if math.isinf(logit):
        return float(logit > 0.0)
    return 0.5 + 0.5 * logit / (1.0 + abs(logit))
