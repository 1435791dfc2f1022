"""Open a model file or a component folder without running anything that is in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..shortage import out_of_memory
from .folders import joined_parts, weight_files
from .gguf_file import read_gguf
from .gguf_header import MAGIC
from .pickles import read_pickle
from .read_json import read_object_file
from .safetensors_file import read_safetensors


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by key, the safetensors metadata, the folder's config.json if there is one, and where all of it came from
    (for messages).
    """

    tensors: dict[str, Tensor]
    source: str
    metadata: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] | None = None


def read_checkpoint(path: str | Path, device: str | torch.device = "cpu") -> Checkpoint:
    """Read a .safetensors, .gguf, .pth, .pt, .bin or .ckpt file, or a diffusers / Hugging Face component folder.

    The content decides, not the file name. One part of a model in several files is read together with the others beside
    it. Pickles are read in PyTorch's weights-only mode, which runs no code.  device: "cpu", where tensors are mapped
    from the file and read when they are used, or "meta" for names, shapes and number types; tensors that hold JSON are
    read even so.  Raises CheckpointError for anything that is not a readable model.
    """
    meta = torch.device(device).type == "meta"
    path = Path(path)
    try:
        if path.is_dir():
            return _read_folder(path, meta)
        _check_file(path)
        files, note = joined_parts(path)
        return _read_files(files, f"{path}{note}", meta)
    except OSError as error:
        if out_of_memory(error):
            raise
        raise CheckpointError(f"{path} cannot be read ({error.strerror or error})") from error


def component_folder(path: str | Path, name: str) -> Path:
    """Where one component is: `path/name` if `path` is a whole diffusers pipeline, or a training's folder with a
    subfolder for the component and no weights of its own; else `path` itself.
    """
    path = Path(path)
    try:
        whole = (path / "model_index.json").is_file()
        inside = whole or ((path / name).is_dir() and not weight_files(path, strict=False))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror or error})") from error
    return path / name if inside else path


def _check_file(path: Path) -> None:
    if path.is_symlink() and not path.exists():
        raise CheckpointError(f"{path} is a link to {path.readlink()}, which is not there: download the file again")
    if not path.exists():
        raise CheckpointError(f"{path}: there is no such file or folder")
    if not path.is_file():
        raise CheckpointError(f"{path} is neither a file nor a folder")


def _read_folder(folder: Path, meta: bool) -> Checkpoint:
    if (folder / "model_index.json").is_file():
        example = folder / "transformer"
        raise CheckpointError(
            f"{folder} is a whole diffusers pipeline, expected one component: name its subfolder, such as {example}"
        )
    config = folder / "config.json"
    stated = read_object_file(config) if config.is_file() or config.is_symlink() else None
    return _read_files(weight_files(folder), str(folder), meta, stated)


def _read_files(files: list[Path], source: str, meta: bool, config: dict[str, Any] | None = None) -> Checkpoint:
    """The tensors of all files of one model."""
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    for file in files:
        _check_file(file)
        part, stated = _reader(file)(file, meta)
        tensors.update(part)
        metadata.update(stated)
    return Checkpoint(tensors, source, metadata, config)


def _reader(path: Path) -> Callable[[Path, bool], tuple[dict[str, Tensor], dict[str, str]]]:
    """What reads a file of this content."""
    with path.open("rb") as file:
        head = file.read(64)
    if head[8:9] == b"{":  # after eight bytes of any value, the header's length
        return read_safetensors
    if head.startswith(MAGIC):
        return read_gguf
    if head[:2] == b"PK" or head[:1] == b"\x80":
        return read_pickle
    raise CheckpointError(
        f"{path} is {_describe(head)}, expected a .safetensors, .gguf or PyTorch model file: download it again"
    )


def _describe(head: bytes) -> str:
    text = head.lstrip().lower()
    if not head:
        return "an empty file"
    if text.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer without its data"
    if text.startswith((b"<!doctype", b"<html")):
        return "a web page"
    return "not a model file"
