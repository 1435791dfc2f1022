"""Read a GGUF file: tensors in the form in which the rest of the pack knows quantised weights.

A quantised weight (N, K) becomes `layer.weight`, uint8 (N, bytes of a row), and the mark `layer.comfy_quant`, which
names its block type. ComfyUI-GGUF's tools flatten a weight whose width blocks do not divide to rows of 256 numbers,
and keep its shape in the entry `comfy.gguf.orig_shape.NAME`; it gets its shape back. What cannot be rows of blocks
then, and what is no matrix (a table, a larger kernel), is dequantised to float16 at once. Language models of
llama.cpp get Hugging Face's names, see `gguf_gemma.py`. The entry `general.architecture` is not asked for other
networks.
"""

from __future__ import annotations

import math
import mmap
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import CheckpointError
from ..quantised.formats import GGUF, MARK
from ..quantised.gguf_blocks import BLOCKS, dequantise
from .folders import joined_parts
from .gguf_gemma import gemma2_from_llama_cpp, is_language_model
from .gguf_header import Entry, Header, read_header
from .read_json import json_tensor
from .safetensors_file import TEXTS

PLAIN = {
    "f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16, "f64": torch.float64, "i8": torch.int8,
    "i16": torch.int16, "i32": torch.int32, "i64": torch.int64,
}  # fmt: skip
FEWEST_CHANNELS = 96  # of a 1x1 kernel that the network has as a Linear
ORIGINAL_SHAPE = "comfy.gguf.orig_shape."
PARTS = "split.count"


def read_gguf(path: Path, meta: bool) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors, and the entries that are a text or a number as texts. Tensors are mapped from the file, not copied.

    meta: tensors on the meta device, except those that hold a text or a tokenizer. A part of a model in several files
    gives its own tensors; the other parts have to be beside it. Raises CheckpointError for a damaged file, for block
    types that are not known here, and for language models other than Gemma-2.
    """
    data = _mapped(path)
    try:
        header = read_header(data)
        first = _first_part(path, header)
        tensors = _tensors(data, header, meta)
        metadata = {name: text for name, value in header.fields.items() if (text := _text(value)) is not None}
        if is_language_model(tensors):
            stated = header if first == path else read_header(_mapped(first))
            tensors, config = gemma2_from_llama_cpp(tensors, header.fields, stated.fields)
            metadata.update(config)
        return tensors, metadata
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _mapped(path: Path) -> np.ndarray:
    """The bytes of a file, mapped into memory. Who writes into them changes a copy of the page, never the file."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if size == 0:
            return np.empty(0, np.uint8)
        return np.frombuffer(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY), np.uint8)


def _first_part(path: Path, header: Header) -> Path:
    """The first file of a model in several, else the file itself. Raises CheckpointError if one is not there."""
    count = header.fields.get(PARTS, 1)
    if not isinstance(count, int) or count <= 1:
        return path
    parts, _ = joined_parts(path)
    if len(parts) != count:
        raise CheckpointError(
            f"it is one of {count} parts: put all of them into one folder, under their names such as "
            f"model-00001-of-{count:05}.gguf"
        )
    return parts[0]


def _tensors(data: np.ndarray, header: Header, meta: bool) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name, entry in header.entries.items():
        shape = _original_shape(header, entry)
        if entry.type in PLAIN:
            real = not meta or name.rpartition(".")[2] in TEXTS
            content = _content(data, entry, PLAIN[entry.type]) if real else _empty(shape, PLAIN[entry.type])
            tensors[name] = content.reshape(shape)
        elif entry.type not in BLOCKS:
            raise CheckpointError(
                f"its tensor {name} has the block type {entry.type}, which is not read here: use a file of "
                f"{', '.join(BLOCKS)}"
            )
        elif rows := _rows(name, shape, entry.type):
            layer = name.removesuffix(".weight")
            tensors[name] = _empty(rows, torch.uint8) if meta else _content(data, entry, torch.uint8).reshape(rows)
            if f"{layer}.{MARK}" in header.entries:
                raise CheckpointError(f"its layer {layer} is marked twice: the file is damaged")
            tensors[f"{layer}.{MARK}"] = json_tensor({"format": GGUF + entry.type})
        elif meta:
            tensors[name] = _empty(shape, torch.float16)
        else:
            numbers = dequantise(_content(data, entry, torch.uint8), entry.type)
            tensors[name] = numbers.to(torch.float16).reshape(shape)
    return tensors


def _original_shape(header: Header, entry: Entry) -> tuple[int, ...]:
    stated = header.fields.get(ORIGINAL_SHAPE + entry.name)
    if stated is None:
        return entry.shape
    shape = tuple(stated.tolist()) if isinstance(stated, np.ndarray) and stated.dtype.kind in "iu" else ()
    if not 1 <= len(shape) <= 8 or min(shape) < 1 or math.prod(shape) != math.prod(entry.shape):
        raise CheckpointError(
            f"it states the shape {shape} of {entry.name}, which has {math.prod(entry.shape)} numbers: the file is "
            "damaged"
        )
    return shape


def _rows(name: str, shape: tuple[int, ...], type: str) -> tuple[int, int] | None:
    """The shape of the packed rows of a layer's weight (N, K) or (N, K, 1, 1); None for what is no such thing.

    1x1 kernels over few channels are patch embeddings, which stay convolutions in the network.
    """
    block = BLOCKS[type]
    matrix = len(shape) == 2 or (len(shape) == 4 and shape[2:] == (1, 1) and shape[1] >= FEWEST_CHANNELS)
    if not (matrix and name.endswith(".weight")) or shape[1] % block.numbers:
        return None
    return shape[0], block.row_size(shape[1])


def _content(data: np.ndarray, entry: Entry, dtype: torch.dtype) -> Tensor:
    """The numbers of a tensor in one row; a copy only if the file has them at a place where the machine cannot."""
    content = data[entry.begin : entry.begin + entry.size]
    if entry.begin % dtype.itemsize:
        content = content.copy()
    return torch.from_numpy(content).view(dtype)


def _empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _text(value: Any) -> str | None:
    """A text or a number as a text, as JSON has it; None for lists."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, (int, float, np.floating)) else None
