"""What was measured, on what, with what: as a table and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from .. import __version__

PACKAGES = ("torch", "numpy", "pillow", "torch-fidelity", "torchmetrics", "transformers")
TITLES = {"fid": "FID", "kid": "KID", "kid_std": "KID, deviation", "clip": "CLIP score"}


@dataclass(frozen=True)
class Side:
    """name: of the folder or file. count: of pictures that were used, None if statistics do not say."""

    name: str
    count: int | None
    skipped: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Report:
    """values: by metric. captions: how many pictures the CLIP score has. weights: names of files and folders."""

    device: str
    values: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    pictures: Side | None = None
    reference: Side | None = None
    captions: int | None = None
    weights: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


def as_dict(report: Report) -> dict[str, Any]:
    """All of it, for JSON; without names of the user's folders above the last."""
    return asdict(report) | {"versions": _versions()}


def lines(report: Report) -> list[str]:
    """A table of the values, and what has to be known with them."""
    rows = [(TITLES[name], f"{value:.4f}") for name, value in report.values.items()]
    for title, side in (("pictures", report.pictures), ("reference", report.reference)):
        if side is not None:
            rows.append((title, f"{'?' if side.count is None else side.count} ({side.name})"))
            if side.skipped:
                rows.append(("", f"{len(side.skipped)} skipped"))
    if report.captions is not None:
        rows.append(("with captions", str(report.captions)))
    return [*(f"{title:16}{value}" for title, value in rows), *(f"note: {note}" for note in report.notes)]


def _versions() -> dict[str, str]:
    found = {"sana-native": __version__}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
