"""Read a model file by sana_core's rules, for all loaders of this pack."""

from __future__ import annotations

from pathlib import Path

import comfy.memory_management
import comfy.utils

from ...sana_core.checkpoint.files import Checkpoint, read_checkpoint


def read_model(path: str) -> Checkpoint:
    """The tensors of a file on the CPU, and what it says of itself. The content decides about the format, not the
    file's name. Tensors stay mapped to the file where its format allows and --disable-mmap is not set. Raises
    CheckpointError.

    Under dynamic VRAM the host reads a safetensors file once more, its own way: only such tensors can go from the disk
    to the GPU without a stay in memory.
    """
    checkpoint = read_checkpoint(path)
    if comfy.memory_management.aimdo_enabled and _is_safetensors(path):
        mapped = comfy.utils.load_safetensors(path)[0]
        checkpoint.tensors.update({key: mapped[key] for key in checkpoint.tensors if key in mapped})
    elif comfy.utils.DISABLE_MMAP:
        checkpoint.tensors.update({key: tensor.clone() for key, tensor in checkpoint.tensors.items()})
    return checkpoint


def _is_safetensors(path: str) -> bool:
    with Path(path).open("rb") as file:
        return file.read(9)[8:] == b"{"
