"""The machine: Python, PyTorch, cards, number types, fast paths, memory."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from .. import __version__
from ..device import can_compute, free_memory, pick_device
from ..fast import fast_paths
from ..precision import dtype_name, run_dtypes
from ..presets import RELEASES
from . import packages

TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class Card:
    """A GPU as PyTorch sees it. Bytes; None where nothing tells. types: the number types it computes in itself."""

    device: str
    name: str
    capability: str | None
    total: int | None
    free: int | None
    types: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Everything that matters to SANA and is no file. runs: number type -> the releases that run in it here. Bytes."""

    pack: str
    python: str
    system: str
    torch: str
    build: str
    packages: dict[str, str | None]
    cards: tuple[Card, ...]
    device: str
    types: tuple[str, ...]
    runs: dict[str, list[str]]
    fast: list[str]
    memory: int | None
    memory_free: int | None
    hints: list[str] = field(default_factory=list)


def look(device: str | torch.device | None = None) -> Machine:
    """The machine, and what the device that draws here can do. device: None for the one that is taken by default."""
    place = pick_device(device)
    return Machine(
        pack=__version__,
        python=platform.python_version(),
        system=platform.platform(),
        torch=torch.__version__,
        build=build(),
        packages=packages.installed(),
        cards=tuple(cards()),
        device=str(place),
        types=_types(place),
        runs=_runs(place),
        fast=_tried(lambda: fast_paths("auto", place)) or [],
        memory=_host_memory(),
        memory_free=_tried(lambda: free_memory("cpu")),
        hints=_hints(place),
    )


def build() -> str:
    """What this PyTorch was built for."""
    if torch.version.hip:
        return f"ROCm {torch.version.hip}"
    if torch.version.cuda:
        return f"CUDA {torch.version.cuda}"
    if getattr(torch.version, "xpu", None):
        return f"XPU {getattr(torch.version, 'xpu', '')}"
    return "MPS" if torch.backends.mps.is_built() else "CPU"


def cards() -> list[Card]:
    """All GPUs that this PyTorch can use."""
    found = []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            place = torch.device("cuda", index)
            about = torch.cuda.get_device_properties(place)
            capability = None if torch.version.hip else f"{about.major}.{about.minor}"
            found.append(_card(place, about.name, about.total_memory, capability))
    if hasattr(torch, "xpu") and torch.xpu.is_available():
        for index in range(torch.xpu.device_count()):
            place = torch.device("xpu", index)
            about = torch.xpu.get_device_properties(place)
            found.append(_card(place, about.name, about.total_memory))
    if torch.backends.mps.is_available():
        place = torch.device("mps")
        found.append(_card(place, platform.processor() or "Apple GPU", _tried(torch.mps.recommended_max_memory)))
    return found


def _card(place: torch.device, name: str, total: int | None, capability: str | None = None) -> Card:
    return Card(
        device=str(place),
        name=name,
        capability=capability,
        total=total,
        free=_tried(lambda: free_memory(place)),
        types=_types(place),
    )


def lines(machine: Machine) -> list[str]:
    """The machine in words, without a path and without the name of a user or of the machine."""
    said = [
        f"sana-native {machine.pack}, Python {machine.python}, {machine.system}",
        f"PyTorch {machine.torch}, built for {machine.build}",
        f"memory (RAM): {gigabytes(machine.memory)}, free {gigabytes(machine.memory_free)}",
    ]
    for card in machine.cards:
        capability = f", compute capability {card.capability}" if card.capability else ""
        said.append(
            f"card {card.device}: {card.name}{capability}, {gigabytes(card.total)}, free {gigabytes(card.free)}, "
            f"computes in {', '.join(card.types)}"
        )
    if not machine.cards:
        said.append("card: none that this PyTorch can use, so everything runs on the CPU")
    for dtype, names in machine.runs.items():
        said.append(f"runs in {dtype} on {machine.device}: {', '.join(names)}")
    said += [f"fast paths on {machine.device}: {line}" for line in machine.fast]
    said += [f"hint: {hint}" for hint in machine.hints]
    return said


def gigabytes(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 1e9:.1f} GB"


def bytes_words(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _types(place: torch.device) -> tuple[str, ...]:
    return tuple(dtype_name(dtype) for dtype in TYPES if _tried(lambda dtype=dtype: can_compute(place, dtype)))


def _runs(place: torch.device) -> dict[str, list[str]]:
    """The number type of each release if the user names none, see `pipeline/load.py`."""
    if place.type == "cpu":
        return {"float32": ["all releases (a CPU is given float32 unless --dtype names another type)"]}
    found: dict[str, list[str]] = {}
    for release in RELEASES:
        found.setdefault(dtype_name(run_dtypes(release.config, place)[0]), []).append(release.name)
    return found


def _hints(place: torch.device) -> list[str]:
    hints = [
        f"pip install {package.name}: nothing is drawn without it"
        for package in packages.PACKAGES
        if package.needed and package.version is None
    ]
    if place.type == "cpu" and shutil.which("nvidia-smi"):
        hints.append(
            "this machine has NVIDIA's driver, but this PyTorch finds no card: install PyTorch for your card, with the "
            "line that https://pytorch.org/get-started/locally/ gives you"
        )
    return hints


def _host_memory() -> int | None:
    with suppress(ImportError):
        import psutil

        return int(psutil.virtual_memory().total)
    return _tried(lambda: os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def _tried(ask: Callable[[], Value]) -> Value | Any:
    """What a driver or a system answers; None where it fails, whatever it fails with."""
    try:
        return ask()
    except Exception:
        return None
