"""Captions as tools write them: a text beside a picture, JSON beside it, a row of a table; and upstream's CLIP scores.

Upstream (NVlabs/Sana `diffusion/data/datasets/sana_data.py`) keeps several captions of a picture apart by labels:
`NAME.txt` is "prompt"; `NAME.json` and `NAME_MODEL.json` have {NAME: {label: caption}}, `NAME_MODEL_clip_score.json`
has {NAME: {label: score}}. Only captions with a score are drawn there, if any has one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...checkpoint.read_json import read_json
from ...errors import InputError
from .picture import Stored

LARGEST_TEXT = 256 << 20  # bytes
KEYS = ("caption", "prompt", "text")  # of a caption in a JSON object
SCORES = "_clip_score"  # ends the names of files with scores

Weighted = tuple[tuple[str, float], ...]  # captions with their weights


@dataclass
class Captions:
    """texts: by label. others: texts that are captions only if a score names them. weights: by label."""

    texts: dict[str, str] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)

    def weighted(self) -> Weighted:
        """The captions that can be drawn. Raises InputError if there are some and all their weights are 0."""
        known = {label: text for label, text in {**self.others, **self.texts}.items() if text}
        scored = {label: weight for label, weight in self.weights.items() if label in known}
        if scored and max(scored.values()) <= 0:
            raise InputError("none of its captions has a weight above 0")
        weights = scored or {label: 1.0 for label in self.texts if label in known}
        found: dict[str, float] = {}
        for label, weight in weights.items():
            if weight > 0:
                found.setdefault(known[label], weight)
        return tuple(found.items())

    def add_lines(self, content: bytes) -> None:
        """A text file: a caption a line."""
        try:
            lines = content.decode("utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise InputError(f"its captions are not UTF-8 ({error.reason} at byte {error.start})") from error
        for text in filter(None, map(str.strip, lines)):
            self.texts["prompt" if not self.texts else f"prompt {len(self.texts) + 1}"] = text

    def add_json(self, value: Any) -> None:
        """A caption, a list of them, or an object with them. Raises InputError for one that is no text."""
        if not isinstance(value, dict):
            self.texts |= _texts(value, "prompt")
            return
        for key, entry in value.items():
            if key in KEYS:
                self.texts |= _texts(entry, key)
            elif key == "captions":
                self.texts |= _texts(entry, "captions") if not isinstance(entry, dict) else _labelled(entry)
            elif isinstance(entry, str):
                self.others[key] = entry.strip()
        if value.get("weights") is not None:
            self._add_weights(value["weights"], value.get("captions"))

    def add_labelled(self, value: Any) -> None:
        """Captions by label."""
        self.texts |= _labelled(value)

    def add_scores(self, value: Any) -> None:
        """Weights by label."""
        if not isinstance(value, dict):
            raise InputError(f"its scores are {_kind(value)}, expected an object with a number for each caption")
        self.weights |= {label: _number(score) for label, score in value.items()}

    def _add_weights(self, weights: Any, captions: Any) -> None:
        if isinstance(weights, dict):
            self.add_scores(weights)
        elif isinstance(weights, list) and isinstance(captions, list) and len(weights) == len(captions):
            self.add_scores({_label("captions", index): weight for index, weight in enumerate(weights)})
        else:
            raise InputError('its "weights" do not fit its "captions": give one for each')


@dataclass(frozen=True)
class Beside:
    """A file with captions or scores of several pictures, by their keys."""

    scores: bool
    load: Callable[[], Any]


def read_captions(
    key: str, text: Stored | None = None, json: Stored | None = None, beside: Sequence[Beside] = ()
) -> Weighted:
    """The captions of one picture, none if it has none. Raises InputError."""
    captions = Captions()
    if text is not None:
        captions.add_lines(text.read(LARGEST_TEXT))
    if json is not None:
        value = read_text_json(json)
        own = value.get(key) if isinstance(value, dict) else None
        if isinstance(own, dict):
            captions.add_labelled(own)
        else:
            captions.add_json(value)
    for file in beside:
        value = file.load()
        if isinstance(value, dict) and value.get(key) is not None:
            (captions.add_scores if file.scores else captions.add_labelled)(value[key])
    return checked(captions.weighted())


def row_captions(row: dict[str, Any]) -> Weighted:
    """The captions in a row of a table. Raises InputError."""
    captions = Captions()
    captions.add_json(row)
    return checked(captions.weighted())


def read_text_json(source: Stored) -> Any:
    """Raises InputError."""
    return json_value(source.read(LARGEST_TEXT))


def json_value(content: bytes) -> Any:
    """Raises InputError."""
    try:
        return read_json(content, "", InputError)
    except InputError as error:
        reason = str(error.__cause__)
        deep = isinstance(error.__cause__, RecursionError)
        raise InputError("its JSON is nested too deeply" if deep else f"its JSON cannot be read ({reason})") from error


def checked(captions: Weighted) -> Weighted:
    """Itself. Raises InputError for texts that no tokenizer takes."""
    for text, _ in captions:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError("its caption is not valid Unicode text") from error
    return captions


def _texts(value: Any, key: str) -> dict[str, str]:
    if value is None:
        return {}
    if isinstance(value, list):
        return {_label(key, index): _text(entry) for index, entry in enumerate(value)}
    return {key: _text(value)}


def _label(key: str, index: int) -> str:
    return f"{key} {index + 1}"


def _labelled(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise InputError(f"its captions are {_kind(value)}, expected an object of texts")
    return {label: _text(entry) for label, entry in value.items() if entry is not None}


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise InputError(f"its caption is {_kind(value)}, expected a text")
    return value.strip()


def _number(value: Any) -> float:
    try:
        number = float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"a weight of its captions is {_kind(value)}, expected a finite number")
    return number


def _kind(value: Any) -> str:
    kinds = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "a text",
        list: "a list",
        dict: "an object",
    }
    return kinds.get(type(value), "null")
