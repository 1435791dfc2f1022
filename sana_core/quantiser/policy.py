"""Which layers are quantised.

The matrices of the blocks are, which hold nearly all numbers. Embedders, caption projection, timesteps, norms, tables,
depthwise convolutions, the last layer and all biases stay as they are: they are small, and errors in them reach every
token.
"""

from __future__ import annotations

import re

from .making import RECIPES

_TRANSFORMER = re.compile(
    r"transformer_blocks\.[0-9]+\.(?P<kind>attn[12]\.(?:to_[qkv]|to_out\.0)|ff\.conv_(?:inverted|point))\.weight"
)
_GEMMA = re.compile(r"layers\.[0-9]+\.(?P<kind>self_attn\.[qkvo]_proj|mlp\.(?:gate|up|down)_proj)\.weight")
EMBEDDING = "embed_tokens.weight"
EMBEDDINGS = ("fp8", "int8", "16bit")  # what an embedding can be stored as: ComfyUI reads single rows of these
GGUF_BLOCK = 32  # numbers that share a scale
GGUF = {"gguf-q8_0": 34, "gguf-q5_1": 24, "gguf-q5_0": 22, "gguf-q4_1": 20, "gguf-q4_0": 18}  # bytes of a block
FORMATS = (*RECIPES, *GGUF)
CALIBRATED = tuple(name for name, recipe in RECIPES.items() if recipe.largest)  # with a stored scale of the input


def kind_of_layer(key: str) -> str | None:
    """What kind of layer a weight is of, such as "attn1.to_q"; None: it is not quantised. key: its name in the network,
    of a transformer or of a Gemma-2.
    """
    if key == EMBEDDING:
        return "embed_tokens"
    match = _TRANSFORMER.fullmatch(key) or _GEMMA.fullmatch(key)
    return match["kind"] if match else None


def chosen_format(key: str, format: str, embedding: str | None = None) -> str | None:
    """The format of a weight in a file that is quantised to `format`; None: it stays.

    embedding: one of EMBEDDINGS, for the token embedding of Gemma-2. None: int8 beside int8, else fp8. No format of
    blocks is used for it: a prompt reads single rows.
    """
    kind = kind_of_layer(key)
    if kind is None:
        return None
    if key != EMBEDDING:
        return format
    chosen = embedding or ("int8" if format.startswith("int8") else "fp8")
    return None if chosen == "16bit" else chosen


def gguf_fitting(format: str, width: int) -> str | None:
    """The GGUF format for a weight of this width; None: no whole number of blocks makes a row, it stays."""
    return None if width % GGUF_BLOCK else format
