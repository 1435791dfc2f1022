"""Recognise SANA in the state dicts that ComfyUI opens, and fit their weights to the model. Tables: sana_core."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from comfy.quant_ops import QUANT_ALGOS
from torch import Tensor

from ...sana_core.checkpoint.canonical import Canonical, canonical_transformer, transformer_prefix
from ...sana_core.checkpoint.detect import detect as detect_transformer
from ...sana_core.checkpoint.fit import check_fit, fitted
from ...sana_core.checkpoint.read_json import json_tensor
from ...sana_core.checkpoint.statements import CONFIG_KEY, saved_statement
from ...sana_core.checkpoint.weights import quantised_layers
from ...sana_core.config import SamplingDefaults, TransformerConfig
from ...sana_core.errors import CheckpointError, shortened
from ...sana_core.kit import Kit
from ...sana_core.pictures.preview import read_map
from ...sana_core.quantised.formats import GGUF, SCALED_FP8
from ...sana_core.sources import NANO_PREVIEW, is_embedded
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
    "bfloat16", for a file that does not state it.  Raises CheckpointError.
    """
    canonical = canonical_transformer(tensors)
    saved = canonical.tensors.get(CONFIG_KEY)
    found = detect_transformer(
        canonical.tensors,
        source=tensors,
        metadata=metadata if saved is None else saved_statement(saved),
        variant=variant,
        trained_precision=trained_precision,
    )
    log.info("%s", found.words)
    preview = read_map(NANO_PREVIEW) if is_embedded(found.config) else None
    return {"image_model": IMAGE_MODEL, "config": found.config, "sampling": found.sampling, "preview": preview}


def canonical_weights(tensors: Mapping[str, Tensor], config: TransformerConfig) -> dict[str, Tensor]:
    """A state dict of any layout under the model's own names. Raises CheckpointError if a key is missing, unexpected or
    mis-shaped.

    A layer that the host has quantised needs the tensors of its format, see `weights.misfits`.
    """
    canonical = canonical_transformer(tensors)
    canonical.tensors.pop(CONFIG_KEY, None)
    check_formats(canonical)
    expected = SanaTransformer(config, Kit(device="meta")).state_dict()
    weights = fitted(canonical.tensors, expected)
    check_fit(weights, expected, canonical)
    return weights


def check_formats(canonical: Canonical) -> None:
    """Raise CheckpointError for a format of quantised layers that neither the host nor this pack has."""
    for layer, form in quantised_layers(canonical.tensors).items():
        if form.name not in (*QUANT_ALGOS, SCALED_FP8) and not (form.name.startswith(GGUF) and form.known):
            named = canonical.original_key(f"{layer}.weight").removesuffix(".weight")
            known = ", ".join(QUANT_ALGOS)
            raise CheckpointError(
                f'the layer {named} is quantised as "{shortened(form.name)}", which this ComfyUI does not know (but '
                f"{known}): update ComfyUI, or choose another file"
            )


def config_tensor(
    weights: Mapping[str, Tensor], config: TransformerConfig, sampling: SamplingDefaults
) -> dict[str, Tensor]:
    """The tensor to save beside `weights` so that a file written without metadata is recognised again; none if the
    shapes show everything.
    """
    derived = detect_transformer(weights)
    if (derived.config, derived.sampling) == (config, sampling):
        return {}
    return {CONFIG_KEY: json_tensor({"config": asdict(config), "sampling": asdict(sampling)})}
