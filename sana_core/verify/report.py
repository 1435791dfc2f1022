"""The result as Markdown, which a person can paste into an issue, and as data. No folder and no name of a person."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from ..doctor import machine as machines
from ..doctor.comfyui import find_comfyui
from ..doctor.machine import Machine
from ..doctor.search import Found
from ..errors import printable
from .checks import UNCHECKED, Check
from .measure import Drawn
from .scrub import scrubbed

TITLE = "SANA on this machine"
CODE = "`"


@dataclass(kw_only=True)
class Report:
    """drawn: the picture, or None with the reason in `trouble`.  failed: the reason is a mistake of the program.
    fault: what is wrong with the picture.  picture: the name of its file.  clean: takes out of a text what is personal.
    """

    machine: Machine
    files: list[Found]
    device: str
    dtype: str
    checks: list[Check]
    warnings: list[str]
    drawn: Drawn | None = None
    trouble: str | None = None
    failed: bool = False
    fault: str | None = None
    picture: str | None = None
    clean: Callable[[str], str] = scrubbed

    @property
    def bad(self) -> bool:
        """Does anything that could be checked disagree?"""
        return any(check.bad for check in self.checks) or self.fault is not None or self.failed

    @property
    def empty(self) -> bool:
        """Could nothing be checked?"""
        return not self.bad and self.drawn is None and all(check.verdict == UNCHECKED for check in self.checks)

    @property
    def verdict(self) -> str:
        bad = [check for check in self.checks if check.bad]
        unchecked = [check for check in self.checks if check.verdict == UNCHECKED]
        agreed = len(self.checks) - len(bad) - len(unchecked)
        said = [f"{agreed} of {len(self.checks)} comparisons agree"]
        said += [f"{len(bad)} DO NOT: " + "; ".join(f"{check.what} ({check.dtype})" for check in bad)] * bool(bad)
        said += [f"{len(unchecked)} could not be made"] * bool(unchecked)
        if self.drawn is None:
            said.append(f"no picture was drawn: {self.trouble}")
        else:
            said.append(f"the picture is WRONG: {self.fault}" if self.fault else "the picture is not black or flat")
        whole = "nothing could be checked" if self.empty else "all that could be checked agrees"
        return f"{'SOMETHING IS WRONG' if self.bad else whole}: {', '.join(said)}."


def markdown(report: Report) -> str:
    return "\n".join(map(printable, _lines(report))) + "\n"  # names and errors may hold anything


def _lines(report: Report) -> Iterator[str]:
    yield f"## {TITLE}"
    yield ""
    yield f"**{report.verdict}**"
    yield ""
    yield from (f"- {line}" for line in machines.lines(report.machine) if not line.startswith("runs in "))
    yield f"- packages: {_packages(report.machine)}"
    comfyui = find_comfyui()
    yield f"- {'ComfyUI: not found' if comfyui is None else comfyui.words}"
    yield f"- verified on {report.device}, the transformer in {report.dtype}"
    yield ""
    yield "### Files"
    yield ""
    yield from _files(report)
    yield ""
    yield "### Comparisons"
    yield ""
    yield "An error is the largest difference, divided by the root mean square of the reference."
    yield ""
    yield "| what | against | type | error | allowed | verdict |"
    yield "| --- | --- | --- | --- | --- | --- |"
    yield from map(_row, report.checks)
    if report.drawn is not None:
        yield ""
        yield "### The picture"
        yield ""
        saved = f", in {_code(report.picture)}" if report.picture else ""
        yield f"{report.drawn.words}{saved}: {report.fault or 'not black, not flat'}"
        yield ""
        yield "| part | seconds | GB at its peak | GB counted |"
        yield "| --- | --- | --- | --- |"
        for item in report.drawn.measures:
            numbers = f"{_gigabytes(item.gigabytes)} | {_gigabytes(item.counted)}"
            yield f"| {item.what} | {item.seconds:.2f} | {numbers} |"
    if report.warnings:
        yield ""
        yield "### Warnings of the log"
        yield ""
        yield from (f"- {_cell(warning)}" for warning in report.warnings)


def _files(report: Report) -> Iterator[str]:
    for found in report.files:
        size = machines.bytes_words(found.size)
        yield f"- {_code(found.name)}, {size}"
        for part in found.parts:
            yield f"  - {_cell(report.clean(part.problem or part.words))}"
            yield from (f"  - {_cell(report.clean(why))}" for why in part.why)
        if found.problem:
            yield f"  - {_cell(report.clean(found.problem))}"


def _row(check: Check) -> str:
    error = "" if check.error is None else f"{check.error:.1e}"
    allowed = "" if check.allowed is None else f"{check.allowed:.0e}"
    note = f" ({_cell(check.note)})" if check.note else ""
    verdict = f"**{check.verdict}**" if check.bad else check.verdict
    return f"| {check.what} | {check.against} | {check.dtype} | {error} | {allowed} | {verdict}{note} |"


def _packages(machine: Machine) -> str:
    return ", ".join(f"{name} {version}" for name, version in machine.packages.items() if version)


def _gigabytes(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _code(name: str) -> str:
    return CODE + name.replace(CODE, "'") + CODE


def _cell(text: str) -> str:
    """Text from files and errors as it may stand in a table."""
    return text.replace("|", "/").replace("<", "&lt;")


def as_dict(report: Report) -> dict[str, Any]:
    drawn = report.drawn
    return {
        "verdict": report.verdict,
        "agrees": not (report.bad or report.empty),
        "machine": asdict(report.machine),
        "files": _cleaned([asdict(found) | {"folder": ""} for found in report.files], report.clean),
        "device": report.device,
        "dtype": report.dtype,
        "checks": [asdict(check) | {"error": _finite(check.error)} for check in report.checks],
        "measures": [] if drawn is None else [asdict(item) for item in drawn.measures],
        "picture": {"file": report.picture, "fault": report.fault, "trouble": report.trouble},
        "warnings": report.warnings,
    }


def _finite(value: float | None) -> float | None:
    """JSON has no infinity; the note says so."""
    return value if value is not None and math.isfinite(value) else None


def _cleaned(value: Any, clean: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {key: _cleaned(item, clean) for key, item in value.items()}
    return [_cleaned(item, clean) for item in value] if isinstance(value, list) else value
