"""What becomes of prompts that are against the policy: nothing is drawn, or a harmless one takes their place."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from ..errors import InputError, RefusedError, shortened
from ..pipeline.request import Replaced, Request
from .shield import Progress
from .wording import HARMLESS, THRESHOLD

log = logging.getLogger("sana")
ACTIONS = ("refuse", "replace")
QUOTED = 80  # characters of a prompt in a message
NAMED = 3  # prompts that a message names
Probabilities = Callable[[Sequence[str], Progress | None], list[float]]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a check says of a prompt. probability: in [0, 1], that it is against the policy."""

    prompt: str
    probability: float
    threshold: float

    @property
    def refused(self) -> bool:
        """Exactly at the threshold a prompt passes, as in NVIDIA's code."""
        return self.probability > self.threshold

    def __str__(self) -> str:
        return f"{shortened(self.prompt, QUOTED)!r} (probability {self.probability:.3f})"


@dataclass(frozen=True, kw_only=True)
class PromptCheck:
    """Checks prompts as the user wrote them, before a style. Negative prompts and pictures are not checked.

    shield: gives the probabilities, such as `load_shield(path)`.  threshold: in [0, 1]; a prompt above it is against
    the policy.  action: "refuse" raises RefusedError, "replace" draws a harmless prompt instead and warns of it.
    Raises InputError for settings that cannot be.
    """

    shield: Probabilities
    threshold: float = THRESHOLD
    action: str = "refuse"

    def __post_init__(self) -> None:
        if type(self.threshold) not in (int, float) or not 0.0 <= self.threshold <= 1.0 or math.isnan(self.threshold):
            raise InputError(f"the threshold of the check is {self.threshold!r}, expected a number from 0 to 1")
        if self.action not in ACTIONS:
            raise InputError(f"the action of the check is {self.action!r}, expected one of {', '.join(ACTIONS)}")

    def verdicts(self, prompts: Sequence[str], progress: Progress | None = None) -> list[Verdict]:
        """One for each prompt, in order. Equal ones are read once."""
        unlike = list(dict.fromkeys(prompts))
        found = dict(zip(unlike, self.shield(unlike, progress)))
        return [Verdict(prompt=text, probability=found[text], threshold=self.threshold) for text in prompts]

    def passed(self, prompts: Sequence[str], progress: Progress | None = None) -> list[str]:
        """The prompts that may be drawn, in the places of those given.

        Raises RefusedError if the action is "refuse" and any of them is against the policy; else warns of each.
        """
        verdicts = self.verdicts(prompts, progress)
        refused = list(dict.fromkeys(verdict for verdict in verdicts if verdict.refused))
        if refused and self.action == "refuse":
            raise RefusedError(_refusal(refused, len(set(prompts))))
        for verdict in refused:
            log.warning(
                '"%s" is drawn in place of the prompt %s: it is against the policy of the check (ShieldGemma), above '
                "the threshold %g",
                HARMLESS,
                verdict,
                self.threshold,
            )
        return [HARMLESS if verdict.refused else verdict.prompt for verdict in verdicts]

    def applied(self, requests: Sequence[Request], progress: Progress | None = None) -> list[Request]:
        """The requests that may be drawn; those with a prompt that was replaced are `Replaced`. All are checked before
        the first is returned. Raises as `passed` does.
        """
        prompts = [_prompts(request) for request in requests]
        passed = iter(self.passed([text for texts in prompts for text in texts], progress))
        found = []
        for request, before in zip(requests, prompts):
            after = tuple(next(passed) for _ in before)
            found.append(request if after == before else _replaced(request, after))
        return found


def _refusal(refused: Sequence[Verdict], count: int) -> str:
    """Which prompts, why, and how to go on."""
    named = ", ".join(map(str, refused[:NAMED])) + (" and others" if len(refused) > NAMED else "")
    which = f"the prompt {named} is" if count == 1 else f"{len(refused)} of {count} prompts are"
    return (
        f"{which} against the policy of the check (ShieldGemma), above the threshold {refused[0].threshold:g}"
        f"{'' if count == 1 else f': {named}'}. Nothing was drawn: choose other words, choose a higher threshold, or "
        "leave out the check"
    )


def _prompts(request: Request) -> tuple[str, ...]:
    return (request.prompt,) if isinstance(request.prompt, str) else tuple(request.prompt)


def _replaced(request: Request, prompts: tuple[str, ...]) -> Replaced:
    values: dict[str, Any] = {item.name: getattr(request, item.name) for item in fields(Request)}
    values["prompt"] = prompts[0] if isinstance(request.prompt, str) else prompts
    return Replaced(**values)
