"""Deeper and shallower transformers made of a trained one, as files (SANA-1.5, arXiv:2501.18427).

Tensors are read and written one at a time and keep their number types. The new file has diffusers' names and shapes,
and states its configuration and how the model is sampled.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoint.canonical import canonical_transformer
from ..checkpoint.files import component_folder, read_checkpoint
from ..checkpoint.fit import naming
from ..checkpoint.new_file import new_file
from ..checkpoint.safetensors_stream import SafetensorsWriter
from ..checkpoint.weights import quantised_layers
from ..config import LARGEST_DEPTH, PositionConfig, TransformerConfig
from ..errors import CheckpointError, InputError
from ..quantiser.convert import check_places
from ..quantiser.source import Model, open_model
from .networks import initial_transformer
from .settings import SEEDS

METHODS = ("partial", "cyclic", "block")
DROPPED = 2  # blocks at the end of the small model, which are made for its output
BLOCK = "transformer_blocks."
OUTPUTS = ("attn1.to_out.0.weight", "attn1.to_out.0.bias", "attn2.to_out.0.weight", "attn2.to_out.0.bias")
ZEROS = (*OUTPUTS, "ff.conv_point.weight")  # what a block adds to its tokens passes through these
KERNELS = ("conv_inverted.weight", "conv_point.weight")  # 1x1 convolutions, matrices in our networks
Progress = Callable[[int, int], None]


def open_transformer(
    source: str | Path,
    target: str | Path,
    *,
    variant: str | None = None,
    trained_precision: str | None = None,
    overwrite: bool = False,
) -> tuple[Model, TransformerConfig]:
    """A SANA transformer to make another of, checked as strictly as for loading; and its configuration.

    Raises CheckpointError for a file that is none, is damaged or quantised, InputError if there is no place for the new
    file. Nothing is written.
    """
    source, target = Path(source), Path(target)
    if target.suffix.lower() != ".safetensors":
        raise InputError(f"{target}: the new file is a .safetensors file: name it so")
    check_places(source, target, overwrite)
    checkpoint = read_checkpoint(component_folder(source, "transformer"), "meta")
    with naming(checkpoint.source):
        if layers := quantised_layers(checkpoint.tensors, checkpoint.metadata):
            raise CheckpointError(f"it is quantised (see {next(iter(layers))}): take the file that it was made from")
        canonical_transformer(checkpoint.tensors)  # refuses what is none
    model = open_model(source, variant=variant, trained_precision=trained_precision)
    return model, _config(model)


def grow(
    source: str | Path,
    target: str | Path,
    *,
    depth: int,
    inherit: int | None = None,
    method: str = "partial",
    seed: int = 0,
    variant: str | None = None,
    trained_precision: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> tuple[int | None, ...]:
    """Write a transformer of `depth` blocks that begins as a smaller one (sec. 2.2 of the paper).

    method: "partial": the first `inherit` blocks are kept, by default all but the last two, which are made for the
    output; the others are new and change nothing yet. "cyclic": the first `inherit` blocks, by default all, follow one
    another again and again. "block": each of them is repeated in its place. seed: of the new blocks.

    Returns the number of the old block for each new one, None for a new one. Raises CheckpointError, InputError; then
    there is no new file.
    """
    if not 0 <= seed < SEEDS:
        raise InputError(f"--seed is {seed}, expected from 0 to {SEEDS - 1}")
    model, config = open_transformer(
        source, target, variant=variant, trained_precision=trained_precision, overwrite=overwrite
    )
    blocks = grown_blocks(config.depth, depth, inherit, method)
    write_blocks(model, config, blocks, Path(target), seed=seed, overwrite=overwrite, progress=progress)
    return blocks


def grown_blocks(own: int, depth: int, inherit: int | None, method: str) -> tuple[int | None, ...]:
    """What the blocks of a grown model come from, see `grow`. Raises InputError."""
    if method not in METHODS:
        raise InputError(f'unknown method "{method}", expected one of {", ".join(METHODS)}')
    if not own < depth <= LARGEST_DEPTH:
        raise InputError(f"a depth of {depth}, but the model has {own} blocks: give {own + 1} to {LARGEST_DEPTH}")
    if inherit is None:
        inherit = max(1, own - DROPPED) if method == "partial" else own
    if not 1 <= inherit <= own:
        raise InputError(f"{inherit} blocks to inherit, but the model has {own}: give 1 to {own}")
    if method == "partial":
        return tuple(index if index < inherit else None for index in range(depth))
    return tuple(index % inherit if method == "cyclic" else index * inherit // depth for index in range(depth))


def write_blocks(
    model: Model,
    config: TransformerConfig,
    blocks: Sequence[int | None],
    target: Path,
    *,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> None:
    """Write a transformer whose blocks are those of `model` with these numbers, and new ones where it is None."""
    rest = [key for key in model.tensors if not key.startswith(BLOCK)]
    names = [key.removeprefix(f"{BLOCK}0.") for key in model.tensors if key.startswith(f"{BLOCK}0.")]
    grown = json.dumps({**json.loads(model.metadata["config"]), "depth": len(blocks)})
    metadata = {**model.metadata, "config": grown}
    count = len(rest) + len(names) * len(blocks)
    with (
        new_file(target, overwrite=overwrite) as partial,
        SafetensorsWriter(partial, tensors=count, metadata=metadata) as writer,
    ):
        for key in rest:
            writer.add(key, _as_published(key, model.tensors[key]))
        for index, old in enumerate(blocks):
            new = _new_block(config, (seed + index) % SEEDS) if old is None else None
            for name in names:
                tensor = model.tensors[f"{BLOCK}{old or 0}.{name}"]
                tensor = tensor if new is None else new[name].to(tensor.dtype)
                writer.add(f"{BLOCK}{index}.{name}", _as_published(name, tensor))
            if progress is not None:
                progress(index + 1, len(blocks))


def _new_block(config: TransformerConfig, seed: int) -> dict[str, Tensor]:
    """A block that gives its tokens back as they are, ready to be trained."""
    block = initial_transformer(replace(config, depth=1), seed).blocks[0].state_dict()
    return {name: torch.zeros_like(tensor) if name in ZEROS else tensor for name, tensor in block.items()}


def _as_published(key: str, tensor: Tensor) -> Tensor:
    """The 1x1 convolutions of the feed-forward in four dimensions, as the released files have them."""
    return tensor[:, :, None, None] if tensor.ndim == 2 and key.endswith(KERNELS) else tensor


def _config(model: Model) -> TransformerConfig:
    """The configuration that `open_model` wrote into the metadata."""
    values = json.loads(model.metadata["config"])
    position = values.pop("position")
    return TransformerConfig(**values, position=PositionConfig(**position) if position else None)
