"""Is it Gemma-2, and which one? Answers from key names, shapes and what a file or folder states about itself."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import fields
from statistics import mode
from typing import Any

from torch import Tensor

from ..checkpoint.files import Checkpoint
from ..checkpoint.kinds import describe
from ..checkpoint.statements import stated_config
from ..config import TextConfig
from ..errors import CheckpointError

SPIECE_KEY = "spiece_model"
"""Key of the SentencePiece model, as bytes, in ComfyUI's Gemma file."""

HEAD_DIM = 256  # of Gemma-2-2B
LARGEST = 1_000_000  # no number in a configuration of this family is larger
QUANTISED = (
    ".comfy_quant",
    "scaled_fp8",
    ".weight_scale",
    ".scale_weight",
    ".qweight",
    ".quant_state",
    ".absmax",
)  # parts of keys
FIXED = {
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "hidden_activation": "gelu_pytorch_tanh",
}  # the same in every Gemma-2


def check_gemma2(checkpoint: Checkpoint) -> None:
    """Raise CheckpointError unless these are the unquantised tensors of a Gemma-2."""
    keys = checkpoint.tensors
    if not any(".pre_feedforward_layernorm." in key for key in keys) or any(
        ".self_attn.q_norm." in key for key in keys
    ):
        raise CheckpointError(
            f"expected a Gemma-2 text encoder, found {describe(keys)}: choose Gemma-2-2B, for example "
            "gemma_2_2b_fp16.safetensors"
        )
    if quantised := _quantised(checkpoint):
        raise CheckpointError(
            f"the weights of this Gemma-2 are quantised ({quantised}), expected float32, bfloat16 or float16: "
            "use gemma_2_2b_fp16.safetensors, or load the quantised file in ComfyUI"
        )


def key_prefix(checkpoint: Checkpoint) -> str:
    """What stands before the keys: "model." in ComfyUI's file and in a language model, nothing in a pipeline's
    text_encoder folder.
    """
    return "model." if any(key.startswith("model.layers.") for key in checkpoint.tensors) else ""


def text_config(checkpoint: Checkpoint, tensors: dict[str, Tensor]) -> TextConfig:
    """Configuration of a Gemma-2 with `tensors` (keys of `Gemma2Model`).

    A file that states nothing is Gemma-2-2B. Otherwise each field comes from the safetensors metadata (own keys before
    JSON under `config`), else from config.json, else from the shapes, with query_pre_attn_scalar equal to the size of a
    head.
    """
    stated = _stated(checkpoint)
    for name, value in FIXED.items():
        if name in stated and not _equal(stated[name], value):
            raise CheckpointError(
                f"it states {name} = {stated[name]}, every Gemma-2 has {value}: this is another model"
            )
    names = [field.name for field in fields(TextConfig) if field.name in stated]
    numbers: dict[str, Any] = {name: _number(name, stated[name]) for name in names}
    if not numbers:
        return TextConfig()
    config = TextConfig(**{**_from_shapes(tensors, numbers), **numbers})
    if config.num_hidden_layers > len(tensors):
        raise CheckpointError(
            f"it states {config.num_hidden_layers} layers but has {len(tensors)} tensors: the configuration is not its "
            "own"
        )
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    if heads % kv_heads or config.hidden_size % heads or config.head_dim % 2:
        raise CheckpointError(
            f"hidden size {config.hidden_size}, {heads} heads of {config.head_dim} and {kv_heads} key/value heads do "
            "not fit together: "
            "correct num_attention_heads, num_key_value_heads and head_dim in its metadata or config.json"
        )
    return config


def _quantised(checkpoint: Checkpoint) -> str | None:
    """The key that shows it, if the weights are quantised."""
    for key, tensor in checkpoint.tensors.items():
        if any(mark in key for mark in QUANTISED) or not (tensor.is_floating_point() or key == SPIECE_KEY):
            return key
    return "quantization_config" if "quantization_config" in (checkpoint.config or {}) else None


def _stated(checkpoint: Checkpoint) -> dict[str, Any]:
    """What config.json and the safetensors metadata say, the latter on top."""
    config = stated_config(checkpoint.metadata, checkpoint.config)
    rope = config.get("rope_parameters")  # where transformers 5 puts rope_theta
    return {**config, **(rope if isinstance(rope, dict) else {}), **checkpoint.metadata}


def _float(value: object) -> float:
    """NaN for what is no number."""
    try:
        return float(value)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        return math.nan


def _equal(value: object, fixed: object) -> bool:
    return _float(value) == fixed if isinstance(fixed, float) else value == fixed


def _number(name: str, value: object) -> int | float:
    number = _float(value)
    whole = name != "attn_logit_softcapping"
    if not 0 < number <= LARGEST or (whole and number != int(number)):
        raise CheckpointError(f"it states {name} = {value!r}, expected a positive {'whole ' if whole else ''}number")
    return int(number) if whole else number


def _from_shapes(tensors: dict[str, Tensor], stated: dict[str, Any]) -> dict[str, int]:
    """What most tensors agree on, so that the one that is missing or of another shape can be named afterwards."""

    def size(dim: int, *leaves: str) -> int:
        sizes = [tensor.shape[dim] for key, tensor in tensors.items() if key.endswith(leaves) and tensor.ndim == 2]
        return mode(sizes or [HEAD_DIM])  # any number will do where all are missing

    queries, keys = size(0, "self_attn.q_proj.weight"), size(0, "self_attn.k_proj.weight", "self_attn.v_proj.weight")
    num_heads = stated.get("num_attention_heads")
    head_dim = stated.get("head_dim") or (max(queries // num_heads, 1) if num_heads else HEAD_DIM)
    return {
        "vocab_size": size(0, "embed_tokens.weight"),
        "hidden_size": size(1, "embed_tokens.weight", "self_attn.q_proj.weight", "mlp.gate_proj.weight"),
        "intermediate_size": size(0, "mlp.gate_proj.weight", "mlp.up_proj.weight"),
        "num_hidden_layers": mode(
            Counter(key.split(".", 2)[-1] for key in tensors if key.startswith("layers.")).values()
        ),
        "head_dim": head_dim,
        "num_attention_heads": max(queries // head_dim, 1),
        "num_key_value_heads": max(keys // head_dim, 1),
        "query_pre_attn_scalar": head_dim,
    }
