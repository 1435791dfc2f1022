"""Recognise SANA in the state dicts that ComfyUI opens, and fit their weights to the model. All tables are sana_core's."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any

import torch
from torch import Tensor

from ...sana_core.checkpoint.canonical import Canonical, canonical_transformer, transformer_prefix
from ...sana_core.checkpoint.detect import detect_transformer, native_size, stated_config, transformer_config
from ...sana_core.checkpoint.files import CONFIG_KEY, saved_statement
from ...sana_core.checkpoint.load import check_fit, fitted
from ...sana_core.config import SamplingDefaults, TransformerConfig
from ...sana_core.errors import CheckpointError
from ...sana_core.kit import Kit
from ...sana_core.presets import sampling_defaults
from ...sana_core.transformer.model import SanaTransformer

log = logging.getLogger("sana")
IMAGE_MODEL = "sana"
"""Value of `image_model` in the host's model configurations."""


def is_sana(keys: Mapping[str, Tensor], prefix: str = "") -> bool:
    """Is there a SANA transformer under `prefix`? ControlNets and video models are something else."""
    return transformer_prefix(key.removeprefix(prefix) for key in keys if key.startswith(prefix)) is not None


def detect(
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    variant: str | None = None,
    trained_precision: str | None = None,
) -> dict[str, Any]:
    """The host's `unet_config` for a SANA transformer: its configuration and how it was released to be sampled.

    metadata: of the safetensors file.  variant: "512", "1024", "2k" or "4k", trained_precision: "float16" or
    "bfloat16", where the file does not tell.  Raises CheckpointError.
    """
    canonical = canonical_transformer(tensors)
    saved = canonical.tensors.get(CONFIG_KEY)
    stated = dict(metadata or {}) if saved is None else saved_statement(saved)
    own = stated_config(stated)
    config, found = detect_transformer(
        canonical.tensors, source=tensors, stated=own, variant=variant, trained_precision=trained_precision
    )
    log.info("%s", found)
    defaults = sampling_defaults(config, native_size(tensors, own, variant))
    return {"image_model": IMAGE_MODEL, "config": config, "sampling": _stated_sampling(stated, defaults)}


def canonical_weights(tensors: Mapping[str, Tensor], config: TransformerConfig) -> dict[str, Tensor]:
    """A state dict of any layout under the model's own names. Raises CheckpointError if a key is missing, unexpected or
    mis-shaped.

    Layers that the host has quantised are not checked: their weights are packed and bring further keys.
    """
    canonical = canonical_transformer(tensors)
    canonical.tensors.pop(CONFIG_KEY, None)
    expected = SanaTransformer(config, Kit(device="meta")).state_dict()
    weights = fitted(canonical.tensors, expected)
    quantised = tuple(key.removesuffix("comfy_quant") for key in weights if key.endswith(".comfy_quant"))
    plain = {key: tensor for key, tensor in weights.items() if not key.startswith(quantised)}
    check_fit(plain, {key: tensor for key, tensor in expected.items() if not key.startswith(quantised)}, canonical)
    return weights


def config_tensor(
    weights: Mapping[str, Tensor], config: TransformerConfig, sampling: SamplingDefaults
) -> dict[str, Tensor]:
    """The tensor to save beside `weights` so that a file written without metadata is recognised again; none where
    shapes tell it all.
    """
    derived = transformer_config(Canonical(dict(weights), "").tensors)
    if (derived, sampling_defaults(derived)) == (config, sampling):
        return {}
    text = json.dumps({"config": asdict(config), "sampling": asdict(sampling)})
    return {CONFIG_KEY: torch.tensor(list(text.encode()), dtype=torch.uint8)}


def _stated_sampling(stated: Mapping[str, str], defaults: SamplingDefaults) -> SamplingDefaults:
    """`defaults` with what the JSON under `sampling` says in their place."""
    try:
        own = dict(json.loads(stated.get("sampling", "{}")))
        return replace(defaults, **{field.name: own[field.name] for field in fields(defaults) if field.name in own})
    except (ValueError, TypeError) as error:
        raise CheckpointError(
            f"the metadata entry `sampling` holds no sampling settings ({error}): download the file again"
        ) from error
