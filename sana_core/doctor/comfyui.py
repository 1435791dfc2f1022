"""A ComfyUI on this machine: where it is, its version, its model folders."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PACK = Path(__file__).parents[2]
TESTED = ((0, 28), (0, 33))  # the oldest and the newest that our tests run in
KINDS = (  # ComfyUI's folders with files that may be SANA's
    "diffusion_models", "unet", "checkpoints", "text_encoders", "clip", "vae", "controlnet", "loras", "vae_approx",
    "diffusers",
)  # fmt: skip
LARGEST_YAML = 2**20  # bytes


@dataclass(frozen=True)
class ComfyUI:
    """Its folder, and its version, "" if nothing tells."""

    root: Path
    version: str

    @property
    def words(self) -> str:
        """Its version, and whether our tests run in it."""
        found = re.match(r"(\d+)\.(\d+)", self.version)
        if found is None:
            return "ComfyUI of an unknown version"
        number, (oldest, newest) = (int(found[1]), int(found[2])), TESTED
        span = f"{oldest[0]}.{oldest[1]} to {newest[0]}.{newest[1]}"
        if number < oldest:
            return f"ComfyUI {self.version}, too old: the pack is tested with {span}"
        newer = number > newest
        return f"ComfyUI {self.version}, " + (f"newer than the tested {span}" if newer else f"one of the tested {span}")


def find_comfyui() -> ComfyUI | None:
    """That of COMFYUI_DIR, else the one that the pack is installed in, else ~/comfy/ComfyUI."""
    places = []
    if os.environ.get("COMFYUI_DIR"):
        places.append(Path(os.environ["COMFYUI_DIR"]))
    if PACK.parent.name == "custom_nodes":
        places.append(PACK.parent.parent)
    with suppress(RuntimeError):
        places.append(Path.home() / "comfy" / "ComfyUI")
    root = next(filter(is_comfyui, places), None)
    return None if root is None else ComfyUI(root.absolute(), _version(root))


def is_comfyui(folder: Path) -> bool:
    return os.path.isfile(folder / "main.py") and os.path.isdir(folder / "comfy")


def model_folders(root: Path) -> list[Path]:
    """Where this ComfyUI keeps files that may be SANA's: its own folders and those of its extra_model_paths.yaml."""
    own = [root / "models" / kind for kind in KINDS]
    extra = _extra_folders(root / "extra_model_paths.yaml")
    return [folder for folder in dict.fromkeys([*own, *extra]) if os.path.isdir(folder)]


def _version(root: Path) -> str:
    with suppress(OSError, UnicodeDecodeError):
        text = (root / "comfyui_version.py").read_text("utf-8")
        if found := re.search(r"__version__ = ['\"]([\w.+-]+)['\"]", text):
            return found[1]
    return ""


def _extra_folders(file: Path) -> Iterator[Path]:
    """Folders that ComfyUI's own file of paths names. A file that cannot be read names none."""
    try:
        import yaml
    except ImportError:
        return
    try:
        if file.stat().st_size > LARGEST_YAML:
            return
        content = yaml.safe_load(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):  # ValueError: no UTF-8, a date that is none
        return
    for section in content.values() if isinstance(content, dict) else ():
        if not isinstance(section, dict):
            continue
        base = Path(os.path.expandvars(os.path.expanduser(str(section.get("base_path") or "."))))
        for kind in KINDS:
            for line in str(section.get(kind) or "").splitlines():
                if line.strip():
                    yield file.parent.absolute() / base / line.strip()
