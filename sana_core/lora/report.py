"""What a LoRA changed, in words."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath

from ..errors import listed, printable

log = logging.getLogger("sana")
NETWORKS = ("transformer", "text encoder")


@dataclass(frozen=True, kw_only=True)
class LoraReport:
    """What a LoRA changed.

    network: "transformer" or "text encoder".  matched: its modules.  unmatched: keys of the file that fit nothing.
    elsewhere: keys of the other of the two.  kinds, ranks, alphas: by matched module; None where the method has no rank
    or the file states no alpha (scale 1).
    """

    source: str
    network: str
    strength: float
    matched: tuple[str, ...]
    unmatched: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()
    kinds: dict[str, str] = field(default_factory=dict)
    ranks: dict[str, int | None] = field(default_factory=dict)
    alphas: dict[str, float | None] = field(default_factory=dict)

    def __str__(self) -> str:
        name, count = PurePath(self.source).name, len(self.matched)
        lines = [
            f"{name}: {count} modules of the {self.network} at strength {self.strength:g}",
            f"kind: {_counted(self.kinds)}",
        ]
        lines += [f"rank: {_counted(self.ranks)}", f"alpha: {_counted(self.alphas, absent='not stated, scale 1')}"]
        if self.elsewhere:
            other = next(network for network in NETWORKS if network != self.network)
            lines.append(f"{len(self.elsewhere)} keys of the {other}: {printable(listed(self.elsewhere))}")
        unmatched = f": {printable(listed(self.unmatched))}" if self.unmatched else ""
        lines.append(f"{len(self.unmatched)} keys unmatched{unmatched}")
        return "\n".join(lines)


def log_unmatched(report: LoraReport) -> None:
    """A warning that names the keys that are not used, if there are any."""
    if report.unmatched:
        count, named = len(report.unmatched), printable(listed(report.unmatched))
        log.warning("%s: %d keys fit nothing in this model and are not used: %s", report.source, count, named)


def _counted(values: Mapping[str, object], absent: str = "none") -> str:
    """Each different value once, the commonest first, with how often it comes."""
    counts: dict[object, int] = {}
    for value in values.values():
        counts[value] = counts.get(value, 0) + 1
    ordered = sorted(counts.items(), key=lambda item: -item[1])

    def shown(value: object) -> str:
        return absent if value is None else f"{value:g}" if isinstance(value, float) else str(value)

    return ", ".join(
        shown(value) if len(ordered) == 1 else f"{shown(value)} ({count} modules)" for value, count in ordered
    )
