"""Which ComfyUI the host tests use, and with which Python.

COMFYUI_DIR names the folder, else ~/comfy/ComfyUI (where comfy-cli installs it) is taken. COMFYUI_PYTHON names the interpreter that has its
requirements, else its own .venv or venv is taken, else the running one.
"""

import os
import re
import sys
from pathlib import Path

REASON = "needs ComfyUI in this Python: set COMFYUI_DIR, and run with an interpreter that has its requirements"
ABSENT = "no ComfyUI found: set COMFYUI_DIR to its folder, and COMFYUI_PYTHON to a Python with its requirements"


def folder():
    """Path of ComfyUI, or None."""
    path = Path(os.environ.get("COMFYUI_DIR") or Path.home() / "comfy" / "ComfyUI")
    return path if (path / "main.py").is_file() else None


def python(comfyui):
    """Interpreter that runs ComfyUI."""
    if os.environ.get("COMFYUI_PYTHON"):
        return os.environ["COMFYUI_PYTHON"]
    places = [comfyui / venv / place for venv in (".venv", "venv") for place in ("bin/python", "Scripts/python.exe")]
    return str(next((place for place in places if place.is_file()), sys.executable))


def version(comfyui):
    """Such as 0.33.0."""
    return re.search(r'__version__ = "(.+?)"', (comfyui / "comfyui_version.py").read_text())[1]


def summary(tests, used=True):
    """One line for the end of a test run: which ComfyUI these tests used."""
    comfyui = folder()
    if comfyui is None:
        return f"{tests}: {ABSENT}"
    return f"{tests}: ComfyUI {version(comfyui)} in {comfyui} {'was used' if used else 'was not used: this Python lacks its requirements'}"
