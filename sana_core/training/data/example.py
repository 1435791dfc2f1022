"""Pictures with their captions, and a data set of them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from PIL import Image

from ...errors import InputError, listed
from .picture import Picture

log = logging.getLogger("sana")
REASONS = 4  # that an error lists


@dataclass(frozen=True, kw_only=True)
class Example:
    """One picture; nothing is decoded until `load`.

    name: unique in the data set: a relative path with "/", or that of a tar and the key in it. captions: text and
    weight, at least one. condition: the picture that a ControlNet follows, if the data set has one.
    """

    name: str
    captions: tuple[tuple[str, float], ...]
    picture: Picture
    condition: Picture | None = None

    @property
    def width(self) -> int:
        return self.picture.width

    @property
    def height(self) -> int:
        return self.picture.height

    @property
    def digest(self) -> str:
        return self.picture.digest

    def load(self) -> Image.Image:
        """RGB, upright, what is transparent on white. Raises InputError."""
        return self.picture.load()

    def load_condition(self) -> Image.Image:
        """As `load`, of the condition picture. Raises InputError where there is none, too."""
        if self.condition is None:
            raise InputError(f"{self.name} has no condition picture")
        return self.condition.load()


@dataclass(frozen=True)
class DataSet:
    """examples: in the order of their names. skipped: what is left out, and why."""

    examples: tuple[Example, ...]
    skipped: tuple[tuple[str, str], ...] = ()

    def without(self, failed: Mapping[Example, str]) -> DataSet:
        """The data set without the examples that failed, which become skipped ones. failed: why, by example; those of
        another data set count for nothing. Raises InputError if none is left.
        """
        kept = tuple(example for example in self.examples if example not in failed)
        left_out = [(example.name, failed[example]) for example in self.examples if example in failed]
        return DataSet(kept, tuple(sorted([*self.skipped, *left_out]))).checked()

    def checked(self, where: str = "the data set") -> DataSet:
        """Itself. Raises InputError if it has no picture that can be used."""
        if self.examples:
            return self
        reasons = [f"{name}: {why}" for name, why in self.skipped]
        raise InputError(f"{where} has no picture that can be used: {listed(reasons, REASONS) or 'it is empty'}")


def tell_skipped(skipped: Mapping[str, str]) -> None:
    """Name each in the log, and count them."""
    for name, why in sorted(skipped.items()):
        log.warning("%s is skipped: %s", name, why)
    if skipped:
        log.warning("%d %s skipped", len(skipped), "picture is" if len(skipped) == 1 else "pictures are")
