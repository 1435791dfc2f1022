"""The settings of a training from a TOML or YAML file: under our own names, or a configuration of NVIDIA's Sana."""

from __future__ import annotations

import difflib
import importlib
import logging
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..errors import InputError, shortened
from .setting_values import NUMBER, NUMBERS, TEXT, TRUTH, WHOLE, checked, shown
from .settings import TrainSettings
from .upstream_settings import is_upstream, upstream_settings

log = logging.getLogger("sana")
LARGEST_FILE = 1 << 16  # bytes; NVIDIA's have 4,000
DEEPEST = 20  # tables and lists in one another; PyYAML needs minutes for thousands
TYPES = {"int": WHOLE, "float": NUMBER, "bool": TRUTH, "str": TEXT}
SETTINGS = {item.name: TYPES[str(item.type).partition(" |")[0]] for item in fields(TrainSettings)}
"""The names of `TrainSettings`, and the kind of each value."""
OPTIONS = SETTINGS | {
    "model": TEXT,
    "data": TEXT,
    "folder": TEXT,
    "resume": TEXT,
    "precision": TEXT,
    "epochs": WHOLE,
    "betas": NUMBERS,
    "eps": NUMBERS,
}
"""Besides, what else a configuration of NVIDIA's says, under our names. A caller takes those that it follows."""


def read_settings(path: str | Path, options: Mapping[str, str] = SETTINGS, *, processes: int = 1) -> dict[str, Any]:
    """The settings in a file, by the names of `options`; values of null are left out.

    options: the names that may be set, each with the kind of its value. processes: of this training: the batch of
    NVIDIA's configurations is that of one. What such a configuration says and no option does is ignored; the log names
    it. Raises InputError, which names the file and the setting.
    """
    path = Path(path)
    content = _read(path)
    if not is_upstream(content):
        return _own(content, options, str(path))
    found = upstream_settings(content, str(path), processes)
    values = {name: value for name, value in found.values.items() if name in options}
    ignored = sorted({*found.ignored, *(found.origin[name] for name in found.values if name not in options)})
    if ignored:
        log.info("%s: ignored, as they mean nothing here: %s", path, ", ".join(map(shortened, ignored[:100])))
    return {name: checked(value, options[name], f"{path}: {found.origin[name]}") for name, value in values.items()}


def _own(content: Mapping[Any, Any], options: Mapping[str, str], source: str) -> dict[str, Any]:
    values = {}
    for key, value in content.items():
        name = (key if isinstance(key, str) else shown(key)).replace("-", "_")
        if name not in options:
            (near,) = difflib.get_close_matches(shortened(name, 80), options, 1, 0.0) or [""]
            raise InputError(f"{source}: unknown setting {shown(key)}, the nearest is {near}")
        if name in values:
            raise InputError(f"{source}: {name} is set twice")
        if value is not None:
            values[name] = checked(value, options[name], f"{source}: {name}")
    return values


def _read(path: Path) -> Mapping[Any, Any]:
    """What a file says, as a table. Raises InputError."""
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: settings are in a file that ends with one of {', '.join(READERS)}")
    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST_FILE + 1)
        text = raw.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        said = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be read ({said}): expected a UTF-8 text file of settings") from error
    if len(raw) > LARGEST_FILE:
        raise InputError(f"{path} is too large for a file of settings: it may have {LARGEST_FILE} bytes")
    try:
        content = reader(text)
    except RecursionError as error:
        raise InputError(f"{path} is nested too deeply for a file of settings") from error
    except (ValueError, OverflowError) as error:
        raise InputError(f"{path} is no valid {path.suffix[1:].upper()}: {error}") from error
    if not isinstance(content, Mapping):
        raise InputError(f"{path} holds {shown(content)}, expected names with their values")
    return content


def _toml(text: str) -> Any:
    try:
        tomllib = importlib.import_module("tomllib")
    except ImportError as error:
        raise InputError("TOML is read from Python 3.11 on: write the settings as YAML") from error
    return tomllib.loads(text)


def _yaml(text: str) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise InputError("YAML needs PyYAML: pip install pyyaml") from error
    try:
        depth = 0
        for event in yaml.parse(text, yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise ValueError("it has aliases (*name), which are not read: write the value itself")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise RecursionError
        return {} if (content := yaml.safe_load(text)) is None else content
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"{error.problem or error.context}{line}") from error
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


READERS = {".toml": _toml, ".yaml": _yaml, ".yml": _yaml}
