"""Tiny quantised models as files, shared by the tests."""

import dataclasses
import functools
import json
import tempfile
from pathlib import Path

import gguf
import tiny
import torch
from safetensors.torch import save_file

from sana_core.checkpoint.files import read_checkpoint
from sana_core.checkpoint.weights import quantised_layers
from sana_core.quantised.dequantise import dequantise
from sana_core.quantised.gguf_blocks import BLOCKS
from sana_core.quantiser.convert import quantise_file
from sana_core.transformer.model import SanaTransformer

TEXT_WIDTH = 48
POINT = "transformer_blocks.0.ff.conv_point"
RAW = {"q4_k": gguf.GGMLQuantizationType.Q4_K, "q6_k": gguf.GGMLQuantizationType.Q6_K}


def network(seed=0, **changes):
    """448 wide, 512 in the feed-forward: so ConvRot's groups, 4-bit formats and blocks of 256 numbers fit."""
    config = tiny.transformer_config(hidden_size=448, **{"caption_channels": TEXT_WIDTH, "depth": 1, **changes})
    return tiny.randomized(SanaTransformer(dataclasses.replace(config, ffn_size=512)), seed)


@functools.cache
def folder():
    return Path(tempfile.mkdtemp(prefix="quantised-"))


@functools.cache
def plain(seed=0, **changes):
    """Path of a file that is not quantised."""
    path = folder() / f"plain-{seed}-{'-'.join(changes)}.safetensors"
    save_file(network(seed, **changes).state_dict(), path)
    return path


@functools.cache
def quantised(form, seed=0, **changes):
    """Path of the same model in a format of the command line, or with `conv_point` in a block type of 256 numbers."""
    if form in RAW:
        return with_blocks(form, seed)
    suffix = "gguf" if form.startswith("gguf") else "safetensors"
    path = folder() / f"{form}-{seed}-{'-'.join(changes)}.{suffix}"
    quantise_file(plain(seed, **changes), path, form, dtype=torch.float32)
    return path


def with_blocks(kind, seed):
    path = folder() / f"{kind}.gguf"
    writer = gguf.GGUFWriter(path, "sana")
    for key, tensor in network(seed).state_dict().items():
        if key == f"{POINT}.weight":
            writer.add_tensor(key, random_blocks(kind, tensor.shape).numpy(), raw_dtype=RAW[kind])
        else:
            writer.add_tensor(key, tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def random_blocks(kind, shape):
    """Random bytes as rows of blocks, with small scales."""
    block = BLOCKS[kind]
    generator = torch.Generator().manual_seed(5)
    blocks = torch.randint(0, 256, (shape[0], shape[1] // block.numbers, block.size), generator=generator)
    blocks = blocks.to(torch.uint8)
    scale = torch.tensor([1e-4], dtype=torch.float16).view(torch.uint8)
    for place in {"q4_k": (0, 2), "q6_k": (208,)}[kind]:
        blocks[..., place : place + 2] = scale
    return blocks.flatten(1)


def numbers(path):
    """The tensors of a file, each quantised weight as the numbers that it stands for."""
    checkpoint = read_checkpoint(path)
    tensors = {**checkpoint.tensors}
    for layer, form in quantised_layers(tensors, checkpoint.metadata).items():
        own = [key for key in tensors if key.rpartition(".")[0] == layer and not key.endswith(".bias")]
        parts = {key.rpartition(".")[2]: tensors.pop(key) for key in own}
        shape = form.logical_shape(tuple(parts["weight"].shape))
        tensors[f"{layer}.weight"] = dequantise(form.name, parts, form.settings, shape)
    return {key: tensor.contiguous() for key, tensor in tensors.items()}


def marked(path, layer):
    """Is a layer of this name quantised in a file?"""
    checkpoint = read_checkpoint(path)
    return any(name.endswith(layer) for name in quantised_layers(checkpoint.tensors, checkpoint.metadata))


def mark(**content):
    return torch.tensor(list(json.dumps(content).encode()), dtype=torch.uint8)
