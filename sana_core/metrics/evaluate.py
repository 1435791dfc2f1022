"""From pictures on disk to a report."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..device import pick_device
from ..errors import InputError
from .clip import clip_score, load_clip
from .distances import SUBSET_SIZE, fid, kid, statistics_of
from .inception import LAYER, LAYERS, features, load_inception
from .pictures import Pictures, Progress, find_pictures, first_caption
from .report import Report, Side
from .statistics import Statistics, read_statistics, save_statistics

METRICS = ("fid", "kid", "clip")
ENOUGH = 10_000  # pictures; with fewer, FID is too large by much (arXiv:1801.01401, section 3)
Bar = Callable[[str], Progress | None]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """reference: a folder or tar of pictures, or an .npz of statistics. metrics: of METRICS, None for all that the
    other settings allow. inception, clip: local weights. layer: of InceptionV3. save: where the statistics of the
    pictures go.
    """

    pictures: Path
    reference: Path | None = None
    metrics: tuple[str, ...] | None = None
    inception: Path | None = None
    clip: Path | None = None
    layer: str = LAYER
    kid_subset_size: int = SUBSET_SIZE
    batch: int = 32
    device: str | None = None
    save: Path | None = None
    overwrite: bool = False

    @property
    def from_statistics(self) -> bool:
        return self.reference is not None and self.reference.suffix.lower() == ".npz"

    def chosen(self) -> tuple[str, ...]:
        """The metrics to compute. Raises InputError for those that cannot be had, and for nothing to do."""
        if self.batch < 1:
            raise InputError(f"--batch {self.batch}: expected 1 or more")
        if self.kid_subset_size < 2:
            raise InputError(f"--kid-subset-size {self.kid_subset_size}: expected 2 or more")
        if self.layer not in LAYERS:
            raise InputError(f"--layer {self.layer}: expected one of {', '.join(LAYERS)}")
        possible = {
            "fid": self.reference is not None,
            "kid": self.reference is not None and not self.from_statistics,
            "clip": self.clip is not None,
        }
        metrics = tuple(name for name in METRICS if possible[name]) if self.metrics is None else self.metrics
        for name in metrics:
            if name not in METRICS:
                raise InputError(f"{name} is no metric, expected {', '.join(METRICS)}")
        if self.reference is None and {"fid", "kid"} & set(metrics):
            raise InputError("FID and KID compare with other pictures: pass --reference FOLDER")
        if "kid" in metrics and self.from_statistics:
            raise InputError("KID needs pictures, not only their statistics: pass a folder as --reference")
        if not metrics and self.save is None:
            raise InputError(
                "nothing to compute: pass --reference FOLDER for FID and KID, --clip FOLDER for CLIP score"
            )
        return metrics


def evaluate(settings: Settings, bar: Bar = lambda label: None) -> Report:
    """Measure the pictures. bar: gets a label and gives what moves a bar, or None.

    A metric for which there are too few pictures gets a note in the place of a value. Raises InputError if none has a
    value, and for whatever is missing; CheckpointError for weights that cannot be used.
    """
    metrics = settings.chosen()
    device = pick_device(settings.device)
    distances = bool({"fid", "kid"} & set(metrics)) or settings.save is not None
    pictures = find_pictures(settings.pictures)
    known = read_statistics(settings.reference) if settings.reference and settings.from_statistics else None
    others = find_pictures(settings.reference) if settings.reference and known is None and distances else None
    if known is not None and known.size != LAYERS[settings.layer]:
        raise InputError(
            f"{settings.reference} has statistics of {known.size} features, layer {settings.layer} has "
            f"{LAYERS[settings.layer]}: make them anew, or take another --layer"
        )
    extractor = load_inception(settings.inception, settings.layer, device) if distances else None
    scorer = load_clip(settings.clip, device) if "clip" in metrics else None
    run = _Run(settings, Report(device=str(device)))
    if distances:
        run.distances(metrics, extractor, pictures, others, known, bar)
    if scorer is not None:
        run.clip(scorer, pictures, bar)
    report = run.report
    report.pictures = Side(settings.pictures.resolve().name, pictures.used, pictures.skipped)
    report.settings = {"metrics": list(metrics), "layer": settings.layer, "batch": settings.batch}
    if "kid" in metrics:
        report.settings["kid_subset_size"] = settings.kid_subset_size
    if metrics and not report.values:
        raise InputError("; ".join(report.notes))
    return report


@dataclass
class _Run:
    settings: Settings
    report: Report

    def distances(
        self,
        metrics: tuple[str, ...],
        extractor: Any,
        pictures: Pictures,
        others: Pictures | None,
        known: Statistics | None,
        bar: Bar,
    ) -> None:
        settings, report = self.settings, self.report
        assert settings.inception is not None
        report.weights["inception"] = settings.inception.name
        own = features(extractor, _pixels(pictures, bar("pictures")), settings.batch)
        if settings.save is not None:
            save_statistics(statistics_of(own), settings.save, overwrite=settings.overwrite)
        if not {"fid", "kid"} & set(metrics):
            return
        assert settings.reference is not None
        reference: Tensor | None = None
        if others is not None:
            reference = features(extractor, _pixels(others, bar("reference")), settings.batch)
            report.reference = Side(settings.reference.name, others.used, others.skipped)
        elif known is not None:
            report.reference = Side(settings.reference.name, known.count, {})
        if "fid" in metrics:
            self._try("fid", lambda: {"fid": fid(statistics_of(own), known or statistics_of(_given(reference)))})
            counts = [len(own), known.count if known else len(_given(reference))]
            if any(count is not None and count < ENOUGH for count in counts):
                report.notes.append(f"FID of fewer than {ENOUGH:,} pictures is too large: compare equal counts only")
        if "kid" in metrics:
            self._try("kid", lambda: _kid(kid(own, _given(reference), settings.kid_subset_size)))

    def clip(self, scorer: Any, pictures: Pictures, bar: Bar) -> None:
        settings, report = self.settings, self.report
        assert settings.clip is not None
        report.weights["clip"] = settings.clip.resolve().name
        without: list[str] = []

        def couples() -> Iterator[tuple[Tensor, str]]:
            for item, pixels in pictures.decode(bar("captions")):
                try:
                    caption = first_caption(item)
                except InputError as error:
                    report.notes.append(f"{item.name} has no caption that can be read: {error}")
                    caption = None
                if caption is None:
                    without.append(item.name)
                else:
                    yield pixels, caption

        def value() -> dict[str, float]:
            score, report.captions = clip_score(scorer, couples(), settings.batch)
            return {"clip": score}

        self._try("clip", value)
        if without and report.captions:
            report.notes.append(f"{len(without)} pictures have no caption and are left out of the CLIP score")

    def _try(self, name: str, compute: Callable[[], dict[str, float]]) -> None:
        """A value, or a note that says why there is none."""
        try:
            self.report.values |= compute()
        except InputError as error:
            self.report.notes.append(str(error))


def _kid(found: tuple[float, float]) -> dict[str, float]:
    return {"kid": found[0], "kid_std": found[1]}


def _pixels(pictures: Pictures, progress: Progress | None) -> Iterator[Tensor]:
    return (pixels for _, pixels in pictures.decode(progress))


def _given(features: Tensor | None) -> Tensor:
    assert features is not None
    return features
