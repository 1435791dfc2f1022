"""Large batches in several passes, so that what a layer holds for a moment stays within bounds."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

TOKENS_AT_ONCE = 16384
"""One picture of 4096 x 4096: enough to keep a GPU busy. The feed-forward's moment of ten maps of them is 0.7 GB in the
1.6B models.
"""


def in_passes(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """function(x) for a function that treats the sequences of x (B, N, C) alike and apart: as many at a time as make
    TOKENS_AT_ONCE tokens, at least one. The result is the same up to the rounding of matrix kernels that depend on the
    batch.
    """
    sequences = max(1, TOKENS_AT_ONCE // x.shape[1])
    return function(x) if x.shape[0] <= sequences else torch.cat([function(part) for part in x.split(sequences)])
