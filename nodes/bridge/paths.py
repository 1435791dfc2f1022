"""ComfyUI's model folders, with the embedded model in them."""

from __future__ import annotations

import folder_paths

from ...sana_core.sources import NANO

KINDS = ("diffusion_models", "text_encoders", "vae")
"""Folder kinds of the host; the embedded model's files lie in a subfolder of the same name each."""


def model_files(kind: str) -> list[str]:
    """File names that a loader's list offers for a folder kind."""
    return folder_paths.get_filename_list(kind)


def model_path(kind: str, name: str) -> str:
    """Path of a file in that list. Raises FileNotFoundError."""
    return folder_paths.get_full_path_or_raise(kind, name)


def add_embedded_model() -> None:
    """Append the folders of the embedded model to the host's search paths, once."""
    for kind in KINDS:
        folder = str(NANO / kind)
        if folder not in folder_paths.get_folder_paths(kind):
            folder_paths.add_model_folder_path(kind, folder)
