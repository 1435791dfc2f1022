"""Is it Gemma-2, and which one? Answers from key names, shapes and what a file or folder states about itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from statistics import mode
from typing import Any

from torch import Tensor

from ..checkpoint.canonical import Canonical
from ..checkpoint.detect import block_count
from ..checkpoint.files import Checkpoint
from ..checkpoint.kinds import describe
from ..checkpoint.numbers import read_number
from ..checkpoint.other_tools import refuse_other_tools
from ..checkpoint.read_json import read_object, tensor_bytes
from ..checkpoint.statements import stated_config
from ..checkpoint.wrappers import is_extra, unwrapped
from ..config import LARGEST_DEPTH, LARGEST_SIZE, TextConfig
from ..errors import CheckpointError

SPIECE_KEY = "spiece_model"
"""Last part of the key of the SentencePiece model, as bytes, in ComfyUI's Gemma file and in checkpoints it saves."""

GEMMA_CONFIG_KEY = "gemma_config"
"""Last part of the key of a tensor of JSON in UTF-8 beside it: the configuration of a Gemma-2 of another size."""

HEAD_DIM = 256  # of Gemma-2-2B
FIXED = {
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "hidden_activation": "gelu_pytorch_tanh",
}  # the same in every Gemma-2
HEAD = "lm_head.weight"  # of the language model; tied to the embeddings, and no prompt needs it
_LAYER = re.compile(r"(?P<prefix>(?:\w+\.)*?)layers\.[0-9]+\.pre_feedforward_layernorm\.")
# Other networks in an all-in-one file.
_COMPANIONS = ("model.diffusion_model.", "diffusion_model.", "vae.", "first_stage_model.", "text_encoders.")


@dataclass(frozen=True)
class GemmaTensors:
    """The parts of a file with a Gemma-2: the network's tensors under the names of `Gemma2Model`, the SentencePiece
    model and the configuration beside them, None where there is none.
    """

    canonical: Canonical
    spiece: Tensor | None = None
    config: Tensor | None = None

    @property
    def tensors(self) -> dict[str, Tensor]:
        return self.canonical.tensors


def gemma2_tensors(tensors: Mapping[str, Tensor]) -> GemmaTensors:
    """The Gemma-2 in a state dict, under any prefix: ComfyUI's "model.", nothing in a pipeline's text_encoder folder,
    "text_encoders.gemma2_2b.transformer.model." in a checkpoint that ComfyUI has saved.

    Raises CheckpointError if there is none.
    """
    keys, wrapped = unwrapped(tensors)
    prefix = next((match["prefix"] for match in map(_LAYER.match, keys) if match), None)
    if prefix is None or any(".self_attn.q_norm." in key for key in keys if key.startswith(prefix)):
        raise CheckpointError(
            f"expected a Gemma-2 text encoder, found {describe(keys)}: choose Gemma-2-2B, for example "
            "gemma_2_2b_fp16.safetensors"
        )
    own, beside = {}, {}
    for key, tensor in keys.items():
        last = key.rpartition(".")[2]
        if last in (SPIECE_KEY, GEMMA_CONFIG_KEY):
            beside[last] = tensor
        elif key.startswith(prefix) and not is_extra(key) and not key.endswith(HEAD):
            own[key.removeprefix(prefix)] = tensor
        elif not (is_extra(key) or key.endswith(HEAD) or key.startswith(_COMPANIONS)):
            own[key] = tensor  # belongs to nothing that is known; a strict load names it
            wrapped[prefix + key] = key
    return GemmaTensors(Canonical(own, prefix, wrapped=wrapped), beside.get(SPIECE_KEY), beside.get(GEMMA_CONFIG_KEY))


def check_format(found: GemmaTensors, checkpoint: Checkpoint) -> None:
    """Raise CheckpointError if the weights are quantised in a format that is not read here."""
    instead = "or use gemma_2_2b_fp16.safetensors"
    original = {found.canonical.original_key(key): tensor for key, tensor in found.tensors.items()}
    refuse_other_tools(original, config=checkpoint.config, instead=instead)


def text_config(checkpoint: Checkpoint, found: GemmaTensors) -> TextConfig:
    """Configuration of a Gemma-2.

    A file that states nothing is Gemma-2-2B. Otherwise each field comes from the safetensors metadata (own keys before
    JSON under `config`), else from the tensor `gemma_config`, else from config.json, else from the shapes, with
    query_pre_attn_scalar equal to the size of a head. Raises CheckpointError, InputError.
    """
    stated = _stated(checkpoint, found.config)
    for name, value in FIXED.items():
        if name in stated and not _equal(name, stated[name], value):
            raise CheckpointError(
                f"it states {name} = {stated[name]}, every Gemma-2 has {value}: this is another model"
            )
    names = [field.name for field in fields(TextConfig) if field.name in stated]
    numbers: dict[str, Any] = {name: _number(name, stated[name]) for name in names}
    if not numbers:
        return TextConfig()
    layers = block_count(found.tensors, "layers")
    config = TextConfig(**{**_from_shapes(found.tensors, numbers), "num_hidden_layers": layers, **numbers})
    if config.num_hidden_layers != layers:
        stated_layers = config.num_hidden_layers
        raise CheckpointError(
            f"it states {stated_layers} layers but has the tensors of {layers}: the configuration is not its own"
        )
    return config


def _stated(checkpoint: Checkpoint, beside: Tensor | None) -> dict[str, Any]:
    """What config.json, the tensor beside the weights and the safetensors metadata say; the later ones win."""
    config = stated_config(checkpoint.metadata, checkpoint.config)
    rope = config.get("rope_parameters")  # where transformers 5 puts rope_theta
    own = {} if beside is None else read_object(tensor_bytes(beside), f"the tensor {GEMMA_CONFIG_KEY}")
    stated = {**config, **(rope if isinstance(rope, dict) else {}), **own, **checkpoint.metadata}
    return {name: value for name, value in stated.items() if value is not None}


def _equal(name: str, value: object, fixed: object) -> bool:
    if not isinstance(fixed, float):
        return value == fixed
    try:
        return read_number(name, value) == fixed
    except CheckpointError:
        return False


def _number(name: str, value: object) -> int | float:
    if name in ("attn_logit_softcapping", "final_logit_softcapping"):
        return read_number(name, value, least=1e-6, most=LARGEST_SIZE)
    most = LARGEST_DEPTH if name == "num_hidden_layers" else LARGEST_SIZE
    return read_number(name, value, whole=True, least=1, most=most)


def _from_shapes(tensors: Mapping[str, Tensor], stated: dict[str, Any]) -> dict[str, int]:
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
        "head_dim": head_dim,
        "num_attention_heads": max(queries // head_dim, 1),
        "num_key_value_heads": max(keys // head_dim, 1),
        "query_pre_attn_scalar": head_dim,
    }
