"""ComfyUI's model folders, with the embedded model in them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import folder_paths

from ...sana_core.errors import InputError, SanaError, printable, shortened
from ...sana_core.presets import AUTOENCODERS, RELEASES, PublishedFile
from ...sana_core.sources import NANO

SHARED = ("diffusion_models", "vae", "controlnet", "loras")
"""Folder kinds of the host whose own loaders take the embedded model and its add-ons too. The text encoder is in the
lists of this pack alone. The files lie in a subfolder of the kind's name each.
"""
SCORERS = "sana_scorers"  # a folder kind of this pack alone, with a folder for each scorer
GGUF_KINDS = ("diffusion_models", "text_encoders")
"""Folder kinds in which the pack's own loaders also list GGUF files, which the host does not show."""


def model_files(kind: str) -> list[str]:
    """File names that a loader's list offers for a folder kind; those of the embedded model are the last."""
    names = folder_paths.get_filename_list(kind)
    if kind in GGUF_KINDS:  # in the folders as they are now: other packs replace their lists, or list GGUF files too
        folder_paths.folder_names_and_paths[f"{kind}_gguf"] = (folder_paths.get_folder_paths(kind), {".gguf"})
        names = list(dict.fromkeys(names + folder_paths.get_filename_list(f"{kind}_gguf")))
    embedded = sorted(path.name for path in (NANO / kind).glob("*.safetensors"))
    return [*(name for name in names if name not in embedded), *embedded]


def model_path(kind: str, name: str) -> str:
    """Path of a file in that list. Raises FileNotFoundError."""
    embedded = NANO / kind / name
    if kind not in SHARED and embedded.is_file():
        return str(embedded)
    return folder_paths.get_full_path_or_raise(kind, name)


PUBLISHED = {"diffusion_models": RELEASES, "vae": AUTOENCODERS}
"""What older packs list by the name of its repository, by folder kind."""
MISSPELT = {"dc-ae-f32c32-sana-1.1V": "dc-ae-f32c32-sana-1.1"}  # as upstream's workflow Sana_CogVideoX has it


def published_part(kind: str, name: str) -> PublishedFile | None:
    """The published file that `name` means as a repository on Hugging Face, "owner/name" or "owner/name-diffusers"."""
    wanted = name.partition("/")[2].removesuffix("-diffusers").removesuffix("_diffusers")
    return next((part for part in PUBLISHED.get(kind, ()) if part.name == MISSPELT.get(wanted, wanted)), None)


def choice_error(kind: str, name: str) -> str | None:
    """What is wrong with the value of a node's input, for the host's check; None if it is a listed file or a published
    name.
    """
    if not isinstance(name, str):  # over the API
        return f"the name of a file is {name!r:.80}, expected a text"
    if name in model_files(kind) or published_part(kind, name):
        return None
    shown = shortened(printable(name))
    return f"there is no {shown} in models/{kind}: choose another file, or put it there and refresh"


def choice_path(kind: str, name: str) -> str:
    """Path of a listed file, or of the one that a published name means. Raises InputError with its address where it is
    not there.
    """
    part = None if name in model_files(kind) else published_part(kind, name)
    if part is None:
        return model_path(kind, name)
    files = (file for file in model_files(kind) if _is_file_of(part, PurePosixPath(file.replace("\\", "/"))))
    if found := next(files, None):
        return model_path(kind, found)
    own_name = part.saved_as or part.name + PurePosixPath(part.file).suffix
    raise InputError(
        f"{name} was chosen, but its file is not in models/{kind}: download {part.url} and save it there as {own_name}"
    )


@contextmanager
def chosen_file(kind: str, name: str) -> Iterator[str]:
    """Path of a chosen file, see `choice_path`. Errors about it begin with its name in the list, not with its path."""
    path = choice_path(kind, name)
    try:
        yield path
    except SanaError as error:
        said = str(error)
        begins = next((begin for begin in (path, printable(path)) if said.startswith(begin)), None)
        if begins is None:
            raise
        raise type(error)(name + said.removeprefix(begins)) from error


def _is_file_of(part: PublishedFile, file: PurePosixPath) -> bool:
    """By its own name or that of its folder, which ends with the repository's name where an older pack has downloaded
    it.
    """
    own_file = PurePosixPath(part.file).stem if part.file.startswith("checkpoints/") else part.name
    names = {part.name, own_file, f"{part.name}-diffusers", PurePosixPath(part.local_name).stem}
    return file.stem in names or any(folder.split("--")[-1] in names for folder in file.parts[:-1])


def add_folders() -> None:
    """Append the folders of the embedded model to the host's search paths, once, and name that of scorers."""
    for kind in SHARED:
        folder = str(NANO / kind)
        if folder not in folder_paths.get_folder_paths(kind):
            folder_paths.add_model_folder_path(kind, folder)
    folder = str(Path(folder_paths.models_dir) / SCORERS)
    if folder not in folder_paths.folder_names_and_paths.get(SCORERS, ([], None))[0]:
        folder_paths.add_model_folder_path(SCORERS, folder)
