"""All that doctor finds out, as lines for a person and as data for a program."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from ..device import pick_device
from . import machine as machines
from . import packages
from .comfyui import ComfyUI, find_comfyui, is_comfyui, model_folders
from .machine import Machine
from .missing import missing
from .paths import shown
from .search import Found, found_models

UNREADABLE = 20  # files that are listed


@dataclass(frozen=True, kw_only=True)
class Health:
    """Everything that was found."""

    machine: Machine
    comfyui: ComfyUI | None
    folders: list[Path]
    models: list[Found]
    missing: list[str]
    absent: list[Path] = field(default_factory=list)


def examine(
    folders: Sequence[Path] = (), more: Sequence[Path] = (), told: Callable[[str], None] | None = None
) -> Health:
    """Look at the machine, at ComfyUI and its model folders, and at `folders`. more: single files besides, as those of
    a cache.
    """
    comfyui = find_comfyui()
    wanted = [Path(folder).expanduser().absolute() for folder in folders]
    own = [] if comfyui is None else model_folders(comfyui.root)
    there = [folder for folder in (*wanted, *own, *more) if os.path.exists(folder)]
    found = found_models(there, pick_device(None), told)
    return Health(
        machine=machines.look(),
        comfyui=comfyui,
        folders=there,
        models=found,
        missing=missing(found, None if comfyui is None else comfyui.root / "models"),
        absent=[folder for folder in wanted if not os.path.exists(folder)],
    )


def lines(health: Health, *, everything: bool = False) -> Iterator[str]:
    """For a person. everything: files that are not SANA's too."""
    yield from machines.lines(health.machine)
    yield ""
    yield from packages.lines(health.machine.packages)
    yield ""
    place = "" if health.comfyui is None else f", in {shown(health.comfyui.root)}"
    words = "ComfyUI: not found (set COMFYUI_DIR to its folder)" if health.comfyui is None else health.comfyui.words
    yield f"{words}{place}"
    named = os.environ.get("COMFYUI_DIR")
    if named and not is_comfyui(Path(named)):
        yield f"COMFYUI_DIR is {shown(named)}, which is no ComfyUI: it has no main.py and comfy/"
    yield "embedded model: here, it draws without any file"
    yield from (f"{shown(folder)}: there is no such file or folder" for folder in health.absent)
    yield from _files(health.models, everything)
    if empty := _without_models(health):
        yield f"no model files in {', '.join(map(shown, empty))}"
    yield ""
    if health.missing:
        yield "For a first picture with SANA itself this is missing:"
        yield from (f"  {line}" for line in health.missing)
    else:
        yield "Everything is there for a first picture with SANA itself."


def _files(models: Sequence[Found], everything: bool) -> Iterator[str]:
    ours = [model for model in models if model.parts]
    for folder, group in groupby(sorted(ours, key=lambda model: str(model.folder)), key=lambda model: model.folder):
        yield ""
        yield f"{shown(folder)}:"
        for model in group:
            yield f"  {model.name} ({machines.bytes_words(model.size)})"
            for part in model.parts:
                yield f"    {part.words}" + (f": CANNOT BE USED: {part.problem}" if part.problem else "")
                yield from (f"      {why}" for why in part.why)
    broken = [model for model in models if model.problem]
    if broken:
        yield ""
        yield f"{_files_words(len(broken))} cannot be read:"
        shown_ones = broken if everything else broken[:UNREADABLE]
        yield from (f"  {shown(model.folder / model.name)}: {model.problem}" for model in shown_ones)
        if len(broken) > len(shown_ones):
            yield f"  and {len(broken) - len(shown_ones)} more (--all lists them)"
    others = [model for model in models if model.other]
    yield ""
    yield f"{_files_words(len(ours))} of SANA, {len(others)} of other models"
    if everything:
        yield from (f"  {shown(model.folder / model.name)}: {model.other}" for model in others)


def _without_models(health: Health) -> list[Path]:
    """Folders that were searched in vain; those of ComfyUI count as one."""
    own = None if health.comfyui is None else health.comfyui.root / "models"
    folders = [folder for folder in health.folders if folder.is_dir()]
    places = dict.fromkeys(own if own and folder.is_relative_to(own) else folder for folder in folders)
    paths = [model.folder / model.name for model in health.models]
    return [place for place in places if not any(path.is_relative_to(place) for path in paths)]


def _files_words(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"


def as_dict(health: Health) -> dict[str, Any]:
    """For a program; paths as they are shown."""
    comfyui = health.comfyui
    return {
        "machine": asdict(health.machine),
        "comfyui": comfyui and {"folder": shown(comfyui.root), "version": comfyui.version, "words": comfyui.words},
        "folders": [shown(folder) for folder in health.folders],
        "absent": [shown(folder) for folder in health.absent],
        "models": [
            {**asdict(model), "folder": shown(model.folder)} for model in health.models if model.parts or model.problem
        ],
        "others": dict(Counter(model.other for model in health.models if model.other)),
        "missing": health.missing,
    }
