"""Which ComfyUI the host tests use, and with which Python.

COMFYUI_DIR names the folder, else ~/comfy/ComfyUI (where comfy-cli installs it) is taken. COMFYUI_PYTHON names the
interpreter that has its requirements, else its own .venv or venv is taken, else the running one, whichever can run it.
"""

import functools
import os
import re
import subprocess
import sys
from pathlib import Path

REASON = "needs ComfyUI in this Python: set COMFYUI_DIR, and run with an interpreter that has its requirements"
ABSENT = (
    "no ComfyUI that could run: set COMFYUI_DIR to its folder, and COMFYUI_PYTHON to a Python with its requirements"
)
NEEDED = (
    "torch",
    "aiohttp",
    "einops",
    "comfy_kitchen",
    "comfy_aimdo",
    "torchsde",
    "av",
)  # of them, what other projects lack


def folder():
    """Path of ComfyUI, or None."""
    path = Path(os.environ.get("COMFYUI_DIR") or Path.home() / "comfy" / "ComfyUI")
    return path if (path / "main.py").is_file() else None


def runnable():
    """(folder, interpreter) of a ComfyUI that can be started, or None."""
    comfyui = folder()
    if comfyui is None:
        return None
    places = [comfyui / venv / place for venv in (".venv", "venv") for place in ("bin/python", "Scripts/python.exe")]
    given = os.environ.get("COMFYUI_PYTHON")
    candidates = [given] if given else [*(str(place) for place in places if place.is_file()), sys.executable]
    python = next(filter(_has_requirements, candidates), None)
    return python and (comfyui, python)


@functools.cache
def _has_requirements(python):
    check = f"import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, {NEEDED})))"
    return subprocess.run([python, "-c", check], capture_output=True).returncode == 0


def version(comfyui):
    """Such as 0.33.0."""
    return re.search(r'__version__ = "(.+?)"', (comfyui / "comfyui_version.py").read_text())[1]


def summary(tests, used=True):
    """One line for the end of a test run: which ComfyUI these tests used."""
    comfyui = folder()
    if comfyui is None:
        return f"{tests}: {ABSENT}"
    used = used and runnable() is not None
    outcome = "was used" if used else "was not used: no Python with its requirements"
    return f"{tests}: ComfyUI {version(comfyui)} in {comfyui} {outcome}"
