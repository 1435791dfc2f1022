"""Gemma-2 as llama.cpp writes it into GGUF: its names, its norms, its configuration and its tokenizer.

It becomes what ComfyUI's single file of Gemma-2 holds: tensors under Hugging Face's names with "model." before them,
the configuration under `config` in the metadata, the tokenizer as a SentencePiece model in the tensor `spiece_model`.
In the file the weights of norms have 1 added, as llama.cpp multiplies by them alone. Source: convert_hf_to_gguf.py of
llama.cpp (Gemma2Model), gguf/constants.py and gguf/tensor_mapping.py.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import CheckpointError
from .sentencepiece_model import Kind, sentencepiece_model

ARCHITECTURE_KEY = "general.architecture"
ARCHITECTURE = "gemma2"
SPIECE = "spiece_model"
NORMS = ("norm.weight", "layernorm.weight")  # ends of Hugging Face's names
WHOLE = {"token_embd": "embed_tokens", "output_norm": "norm"}
LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "post_ffw_norm": "post_feedforward_layernorm",
}
# What Hugging Face calls a setting, and its entry, after the architecture.
SETTINGS = {
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
}
DEPTH_OF_27B = 46  # its attention is scaled by the width of a head as if heads shared the model's width
TOKENS, SCORES, KINDS = "tokenizer.ggml.tokens", "tokenizer.ggml.scores", "tokenizer.ggml.token_type"
LARGEST_SCORE = np.finfo(np.float32).max
MODEL, SENTENCEPIECE = "tokenizer.ggml.model", "llama"  # llama.cpp's name for the kind of tokenizer
SPACE = "\u2581"  # stands for a space in pieces
_NAME = re.compile(r"blk\.([0-9]+)\.(\w+)\.(.+)")


def is_language_model(names: Iterable[str]) -> bool:
    """Are these llama.cpp's names of the tensors of a language model, of any?"""
    return any(name.startswith(("token_embd.", "output_norm.", "blk.", "enc.blk.", "dec.blk.")) for name in names)


def gemma2_from_llama_cpp(
    tensors: Mapping[str, Tensor], fields: Mapping[str, Any], first: Mapping[str, Any]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors under Hugging Face's names with the SentencePiece model, and what the file states, as metadata.

    fields: the file's entries.  first: those of the first part of a model in several files, else the same. Tensors with
    other names keep them, so that a strict load names them. A tokenizer that is no SentencePiece model is left out.
    Raises CheckpointError for other language models and for a tokenizer that cannot be.
    """
    architecture = first.get(ARCHITECTURE_KEY)
    if not isinstance(architecture, str) or architecture != ARCHITECTURE:
        named = isinstance(architecture, str) and architecture
        found = f"a language model of the architecture {architecture}" if named else "an unnamed language model"
        raise CheckpointError(f"it is {found} ({ARCHITECTURE_KEY}), expected {ARCHITECTURE}: choose Gemma-2-2B")
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        key = _name(name)
        renamed[key] = _norm(tensor) if key.endswith(NORMS) and key.startswith("model.") else tensor
    model = fields.get(MODEL)
    if isinstance(model, str) and model == SENTENCEPIECE:
        renamed[SPIECE] = torch.frombuffer(bytearray(_tokenizer(fields)), dtype=torch.uint8)
    return renamed, {"config": json.dumps(_config(first))}


def _norm(tensor: Tensor) -> Tensor:
    if tensor.is_meta:  # PyTorch takes seconds to compute with the first one
        return torch.empty(tensor.shape, dtype=torch.float32, device="meta")
    return tensor.float() - 1


def _name(name: str) -> str:
    """Hugging Face's name of a tensor, marks of quantised layers included."""
    if match := _NAME.fullmatch(name):
        layer, module, last = match.groups()
        return f"model.layers.{layer}.{LAYER[module]}.{last}" if module in LAYER else name
    module, _, last = name.partition(".")
    if module == "output":
        return f"lm_head.{last}"
    return f"model.{WHOLE[module]}.{last}" if module in WHOLE else name


def _config(fields: Mapping[str, Any]) -> dict[str, int | float]:
    """The configuration in Hugging Face's words, without what the file does not state."""
    stated = {name: fields.get(f"{ARCHITECTURE}.{entry}") for name, entry in SETTINGS.items()}
    config = {name: _number(value) for name, value in stated.items() if isinstance(value, (int, float, np.floating))}
    width, heads = config.get("hidden_size"), config.get("num_attention_heads")
    if config.get("num_hidden_layers") == DEPTH_OF_27B and width and heads and math.isfinite(width / heads):
        config["query_pre_attn_scalar"] = int(width // heads)
    return config


def _number(value: float | np.floating) -> int | float:
    """float32 by its shortest digits: 1e-6, not 9.99999997e-07."""
    return float(str(value)) if isinstance(value, np.floating) else value


def _tokenizer(fields: Mapping[str, Any]) -> bytes:
    """The SentencePiece model that the lists of pieces, scores and kinds came from.

    llama.cpp's converter calls pieces like <start_of_turn> control pieces, and writes runs of spaces as such. In
    Gemma's own model both are pieces that are taken whole wherever they stand in a text.
    """
    pieces, scores, kinds = fields.get(TOKENS), fields.get(SCORES), fields.get(KINDS)
    if not (isinstance(pieces, list) and isinstance(scores, np.ndarray) and isinstance(kinds, np.ndarray)):
        raise CheckpointError(f"its tokenizer lacks {TOKENS}, {SCORES} or {KINDS}: convert the model again")
    if not len(pieces) == len(scores) == len(kinds) or not all(isinstance(piece, str) for piece in pieces):
        raise CheckpointError(
            f"its tokenizer has {len(pieces)} pieces, {len(scores)} scores and {len(kinds)} kinds: the file is damaged"
        )
    if scores.dtype.kind != "f" or kinds.dtype.kind not in "iu" or not (np.abs(scores) <= LARGEST_SCORE).all():
        raise CheckpointError(f"{SCORES} are no scores or {KINDS} no kinds of pieces: the file is damaged")
    own = {"<pad>", "<eos>", "<bos>", "<unk>"}
    found = []
    for piece, score, kind in zip(pieces, scores.tolist(), kinds.tolist()):
        if kind == Kind.CONTROL and piece not in own:
            kind = Kind.USER_DEFINED
        whole = piece.replace(" ", SPACE) if kind == Kind.USER_DEFINED else piece
        found.append((whole, float(score), int(kind)))
    return sentencepiece_model(found)
