"""Open a model file or a component folder without running anything that is in it."""

from __future__ import annotations

import json
import pickle
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import CheckpointError
from .statements import CONFIG_KEY, saved_statement

WRAPPERS = ("state_dict", "state_dict_ema", "model")  # where training scripts put the weights inside a pickle
SAFETENSORS_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2, "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool,
}  # fmt: skip


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by key, the safetensors metadata, the folder's config.json if there is one, and where it came from (for
    messages).
    """

    tensors: dict[str, Tensor]
    source: str
    metadata: dict[str, str] = field(default_factory=dict)
    config: dict | None = None


def read_checkpoint(path: str | Path, device: str | torch.device = "cpu") -> Checkpoint:
    """Read a .safetensors, .pth, .pt, .bin or .ckpt file, or a diffusers / Hugging Face component folder, sharded or
    not.

    The content decides, not the file name. Pickles are read in PyTorch's weights-only mode, which refuses code.
    `device="meta"` reads names, shapes and dtypes only. Raises CheckpointError for anything that is not a readable
    model.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path, torch.device(device))
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file or folder")
    return _read_file(path, torch.device(device))


def component_folder(path: str | Path, name: str) -> Path:
    """The folder of one component: `path/name` where `path` is a whole diffusers pipeline, else `path` itself."""
    path = Path(path)
    return path / name if (path / "model_index.json").is_file() else path


def _read_folder(folder: Path, device: torch.device) -> Checkpoint:
    if (folder / "model_index.json").is_file():
        example = folder / "transformer"
        raise CheckpointError(
            f"{folder} is a whole diffusers pipeline, expected one component: name its subfolder, such as {example}"
        )
    config = _read_json(folder / "config.json") if (folder / "config.json").is_file() else None
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    for file in _weight_files(folder):
        part = _read_file(file, device)
        tensors.update(part.tensors)
        metadata.update(part.metadata)
    return Checkpoint(tensors, str(folder), metadata, config)


def _weight_files(folder: Path) -> list[Path]:
    """The files that make up one model: those of the index, or the only file; a 16-bit variant only where nothing else
    is there.
    """
    for suffix in (".safetensors", ".bin"):
        indices = sorted(folder.glob(f"*{suffix}.index*.json"), key=lambda p: len(p.name))
        if indices:
            files = [folder / name for name in sorted(set(_read_json(indices[0]).get("weight_map", {}).values()))]
            missing = [file.name for file in files if not file.is_file()]
            if missing or not files:
                absent = ", ".join(missing) or "an empty list"
                raise CheckpointError(
                    f"{indices[0]} names files that are not there ({absent}): download the folder again"
                )
            return files
        files = sorted(folder.glob(f"*{suffix}"), key=lambda p: len(p.name))
        others = [
            file.name for file in files[1:] if not file.name.startswith(f"{files[0].stem}.")
        ]  # a variant is name.fp16.safetensors
        if others:
            found = ", ".join([files[0].name, *others])
            raise CheckpointError(f"{folder} holds several models ({found}): name the file")
        if files:
            return files[:1]
    raise CheckpointError(f"{folder}: no .safetensors or .bin file in this folder")


def _read_json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not readable JSON ({error}); download it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a JSON {type(content).__name__}, expected an object")
    return content


def _read_file(path: Path, device: torch.device) -> Checkpoint:
    with path.open("rb") as file:
        head = file.read(64)
    if head[8:9] == b"{":  # after eight bytes of any value, the header's length
        return _read_safetensors(path, device)
    if head[:2] == b"PK" or head[:1] == b"\x80":
        return _read_pickle(path, device)
    raise CheckpointError(
        f"{path} is {_describe(head)}, expected a .safetensors or PyTorch model file: download it again"
    )


def _describe(head: bytes) -> str:
    text = head.lstrip().lower()
    if not head:
        return "an empty file"
    if text.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer without its data"
    if text.startswith((b"<!doctype", b"<html")):
        return "a web page"
    if head.startswith(b"GGUF"):
        return "a GGUF file"
    return "not a model file"


def _read_safetensors(path: Path, device: torch.device) -> Checkpoint:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = dict(file.metadata() or {})
            keys = list(file.keys())
            if device.type == "meta":
                tensors = {key: _meta_tensor(file.get_slice(key)) for key in keys}
            else:
                tensors = {key: file.get_tensor(key).to(device) for key in keys}
            for key in (key for key in keys if key.split(".")[-1] == CONFIG_KEY):
                metadata.update(saved_statement(file.get_tensor(key)))
                del tensors[key]
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path} is not a whole safetensors file ({error}): it is truncated or damaged, download it again"
        ) from error
    return Checkpoint(tensors, str(path), metadata)


def _meta_tensor(entry) -> Tensor:
    return torch.empty(entry.get_shape(), dtype=SAFETENSORS_DTYPES[entry.get_dtype()], device="meta")


def _read_pickle(path: Path, device: torch.device) -> Checkpoint:
    mapped = zipfile.is_zipfile(path) and path.suffix != ".safetensors"  # torch.load takes that suffix at its word
    try:
        with path.open("rb") as file:
            content = torch.load(path if mapped else file, map_location=device, weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds Python objects besides tensors, which could run code when opened; it was not loaded. "
            "Use a .safetensors version of this model"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, AttributeError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"{path} is not a whole PyTorch file ({error}): it is truncated or damaged, download it again"
        ) from error
    return Checkpoint(_state_dict(content, path), str(path))


def _state_dict(content: object, path: Path) -> dict[str, Tensor]:
    if isinstance(content, dict):
        state = next((content[wrapper] for wrapper in WRAPPERS if isinstance(content.get(wrapper), dict)), content)
        tensors = {key: value for key, value in state.items() if isinstance(key, str) and isinstance(value, Tensor)}
        if tensors:
            return tensors
    raise CheckpointError(f"{path} holds no state dict of tensors: it is not a model file")
