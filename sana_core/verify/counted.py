"""Counted peaks of memory, to hold measurements against.

Those of the text encoder and of the steps are in `presets.py`; decoding has a formula.
"""

from __future__ import annotations

import torch
from torch import nn

from ..config import TextConfig
from ..dcae.memory import decode_peak_bytes
from ..live_memory import weight_bytes
from ..pipeline.pipeline import SanaPipeline
from ..presets import COUNTED_TEXT_ENCODER, counted_transformer
from ..quantised.layers import QuantisedWeight


def counted_text(pipeline: SanaPipeline) -> float | None:
    """GB, None where nothing was counted."""
    encoder = pipeline.text_encoder
    released = encoder.config == TextConfig() and not _is_quantised(encoder)
    sixteen = next(encoder.parameters()).dtype in (torch.bfloat16, torch.float16)
    return COUNTED_TEXT_ENCODER if released and sixteen else None


def counted_steps(pipeline: SanaPipeline, width: int, height: int) -> float | None:
    network = pipeline.transformer
    if width != height or _is_quantised(network) or network.scale_shift_table.dtype == torch.float32:
        return None
    return counted_transformer(network.config, width)


def counted_decode(pipeline: SanaPipeline, width: int, height: int, tile: int | None) -> float:
    """By the formula that chooses tiles, with the weights of the decoder."""
    network = pipeline.autoencoder
    dtype = next(network.parameters()).dtype
    weights = weight_bytes(network.decoder)
    return (decode_peak_bytes(network.config, height, width, tile, dtype) + weights) / 1e9


def _is_quantised(network: nn.Module) -> bool:
    return any(isinstance(module, QuantisedWeight) for module in network.modules())
