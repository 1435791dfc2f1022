"""GGUF files of the transformer, and of Gemma-2 as llama.cpp writes it."""

from __future__ import annotations

import functools
import struct
from typing import Any

import torch

from sana_core.checkpoint.gguf_gemma import LAYER, SETTINGS, WHOLE
from sana_core.checkpoint.gguf_header import TYPES
from sana_core.checkpoint.load import load_transformer
from sana_core.quantised.gguf_blocks import BLOCKS
from sana_core.text.load import load_text_encoder

from .. import gguf
from ..target import Files, Target
from . import networks

FILE = "model.gguf"
U32, F32, TEXT, LIST, I32 = 4, 6, 8, 9, 5
Tensors = dict[str, tuple[list[int], int, bytes]]


def plain(tensors: dict[str, torch.Tensor]) -> Tensors:
    return {key: ([*tensor.shape[::-1]], 0, tensor.float().numpy().tobytes()) for key, tensor in tensors.items()}


@functools.cache
def transformers() -> list[Files]:
    """Layers in every block type that is read. Blocks of 256 numbers do not fit these widths, but flattened ones do."""
    found = []
    for kind in BLOCKS:
        number, (_, numbers, size) = next((n, entry) for n, entry in TYPES.items() if entry[0] == kind)
        tensors = plain(networks.weights())
        fields: list[tuple[str, int, Any]] = [("general.architecture", TEXT, "sana"), ("general.alignment", U32, 32)]
        fields += [(name, TEXT, text) for name, text in networks.stated().items()]
        for name in (f"{networks.LAYER}.weight", "transformer_blocks.0.attn2.to_k.weight"):
            width = networks.WIDTH
            shape, rows = ([width, width], width) if width % numbers == 0 else ([numbers, width**2 // numbers], 0)
            tensors[name] = (shape, number, bytes(width * width // numbers * size))
            if not rows:
                fields.append((f"comfy.gguf.orig_shape.{name}", LIST, (I32, [width, width])))
        found.append({FILE: gguf.file_bytes(fields, tensors)})
    return found


@functools.cache
def text_encoders() -> list[Files]:
    import sentencepiece

    tensors, config = networks.text_tensors()
    spiece = tensors["spiece_model"].numpy().tobytes()
    model = sentencepiece.SentencePieceProcessor(model_proto=spiece)
    ids = range(model.get_piece_size())
    kinds = [2 if model.is_unknown(i) else 3 if model.is_control(i) else 6 if model.is_byte(i) else 1 for i in ids]
    fields: list[tuple[str, int, Any]] = [
        ("general.architecture", TEXT, "gemma2"),
        *((f"gemma2.{entry}", U32, config[name]) for name, entry in SETTINGS.items() if type(config.get(name)) is int),
        ("gemma2.attn_logit_softcapping", F32, 50.0),
        ("gemma2.attention.layer_norm_rms_epsilon", F32, struct.unpack("f", struct.pack("f", 1e-6))[0]),
        ("tokenizer.ggml.model", TEXT, "llama"),
        ("tokenizer.ggml.tokens", LIST, (TEXT, [model.id_to_piece(i) for i in ids])),
        ("tokenizer.ggml.scores", LIST, (F32, [model.get_score(i) for i in ids])),
        ("tokenizer.ggml.token_type", LIST, (I32, kinds)),
    ]
    named = {llama_name(key): tensor for key, tensor in tensors.items() if key != "spiece_model"}
    return [{FILE: gguf.file_bytes(fields, plain(named))}]


def llama_name(key: str) -> str:
    parts = key.removeprefix("model.").removesuffix(".weight")
    if parts.startswith("layers."):
        _, number, module = parts.split(".", 2)
        return f"blk.{number}.{next(name for name, own in LAYER.items() if own == module)}.weight"
    return f"{next(name for name, own in WHOLE.items() if own == parts)}.weight"


TARGETS = (
    Target(name="gguf", seeds=transformers, read=networks.reading(load_transformer, FILE)),
    Target(name="gguf_gemma", seeds=text_encoders, read=networks.reading(load_text_encoder, FILE)),
)
