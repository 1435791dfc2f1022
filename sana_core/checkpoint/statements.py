"""What a model file says of itself besides its tensors: its configuration, and how the model is sampled.

It stands in the safetensors metadata, under `config` and `sampling`, or in tensors of bytes where a host writes no
metadata. Values of null count as not stated.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from ..config import SAMPLER_NAMES, SamplingDefaults
from ..errors import CheckpointError
from .numbers import read_number
from .read_json import read_object, tensor_bytes

CONFIG_KEY = "sana_config"
"""Last part of the key of a tensor of bytes with JSON in UTF-8: what the file of a transformer states in place of
metadata.
"""
SAMPLING = "the metadata entry `sampling`"
WHOLE = {"steps": 10_000, "width": 1_000_000, "height": 1_000_000}  # settings of sampling, the largest value of each
REAL = {"guidance_scale": (-1e3, 1e3), "shift": (1e-6, 1e3)}  # and the smallest, too


def stated_config(metadata: Mapping[str, str], config: Mapping | None = None) -> dict[str, Any]:
    """The configuration that a file states: the JSON under `config` in its metadata, else its folder's config.json.

    Metadata that holds no JSON object states nothing. Raises CheckpointError for one that is damaged.
    """
    text = metadata.get("config", "")
    stated = read_object(text, "the metadata entry `config`") if text.lstrip().startswith("{") else config or {}
    return {name: value for name, value in stated.items() if value is not None}


def saved_statement(tensor: Tensor, where: str = f"the tensor {CONFIG_KEY}") -> dict[str, str]:
    """The content of a CONFIG_KEY tensor, in the form of safetensors metadata. Raises CheckpointError if it is none."""
    if tensor.dtype not in (torch.uint8, torch.int8):
        raise CheckpointError(f"{where} holds {tensor.dtype}, expected the bytes of a JSON text")
    content = read_object(tensor_bytes(tensor), where)
    return {name: json.dumps(value) for name, value in content.items()}


def with_stated_sampling(defaults: SamplingDefaults, metadata: Mapping[str, str]) -> SamplingDefaults:
    """`defaults` with what the JSON under `sampling` in the metadata says in their place.

    Raises CheckpointError for unreadable JSON and for values that cannot be.
    """
    if "sampling" not in metadata:
        return defaults
    return stated_sampling(defaults, read_object(metadata["sampling"], SAMPLING), SAMPLING)


def stated_sampling(defaults: SamplingDefaults, stated: Mapping[str, Any], where: str) -> SamplingDefaults:
    """`defaults` with every setting that is stated and not null. Other entries are passed over.

    Raises CheckpointError for values that cannot be; where: what to call their place.
    """
    names = [field.name for field in fields(defaults)]
    own = {name: stated[name] for name in names if stated.get(name) is not None}
    try:
        return replace(defaults, **{name: _setting(name, value) for name, value in own.items()})
    except CheckpointError as error:
        raise CheckpointError(f"{where}: {error}") from error


def _setting(name: str, value: Any) -> Any:
    if name in WHOLE:
        return read_number(name, value, whole=True, least=1, most=WHOLE[name])
    if name in REAL:
        return read_number(name, value, least=REAL[name][0], most=REAL[name][1])
    if value not in SAMPLER_NAMES:
        raise CheckpointError(f"it states {name} = {value!r}, expected one of {', '.join(SAMPLER_NAMES)}")
    return value
