"""Counted peaks of memory, to hold measurements against.

The numbers are those of docs/memory.md and of the README's table of files. `bench/memory.py` counts them: live tensors
of the networks in their published sizes, in 16 bits, a step with guidance.
"""

from __future__ import annotations

import torch
from torch import nn

from ..config import TextConfig
from ..dcae.memory import decode_peak_bytes
from ..live_memory import weight_bytes
from ..pipeline.pipeline import SanaPipeline
from ..presets import network_name
from ..quantised.layers import QuantisedWeight

TEXT_ENCODER = 5.3  # GB
TRANSFORMER = {  # by network and side of the picture in pixels
    ("SANA 0.6B", 512): 1.3,
    ("SANA 0.6B", 1024): 1.3,
    ("SANA 1.6B", 512): 3.4,
    ("SANA 1.6B", 1024): 3.5,
    ("SANA 1.6B", 2048): 3.9,
    ("SANA 1.6B", 4096): 4.8,
    ("SANA-1.5 1.6B", 1024): 3.5,
    ("SANA-1.5 4.8B", 1024): 9.9,
    ("SANA-Sprint 0.6B", 1024): 1.3,
    ("SANA-Sprint 1.6B", 1024): 3.3,
}


def counted_text(pipeline: SanaPipeline) -> float | None:
    """GB, None where nothing was counted."""
    encoder = pipeline.text_encoder
    released = encoder.config == TextConfig() and not _is_quantised(encoder)
    sixteen = next(encoder.parameters()).dtype in (torch.bfloat16, torch.float16)
    return TEXT_ENCODER if released and sixteen else None


def counted_steps(pipeline: SanaPipeline, width: int, height: int) -> float | None:
    network = pipeline.transformer
    if width != height or _is_quantised(network) or network.scale_shift_table.dtype == torch.float32:
        return None
    return TRANSFORMER.get((network_name(network.config), width))


def counted_decode(pipeline: SanaPipeline, width: int, height: int, tile: int | None) -> float:
    """By the formula that chooses tiles, with the weights of the decoder."""
    network = pipeline.autoencoder
    dtype = next(network.parameters()).dtype
    weights = weight_bytes(network.decoder)
    return (decode_peak_bytes(network.config, height, width, tile, dtype) + weights) / 1e9


def _is_quantised(network: nn.Module) -> bool:
    return any(isinstance(module, QuantisedWeight) for module in network.modules())
