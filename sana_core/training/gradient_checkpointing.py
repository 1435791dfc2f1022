"""Gradient checkpointing at the seam between blocks: their inner tensors are computed again in the backward pass."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint


def checkpoint_blocks(blocks: Iterable[nn.Module]) -> None:
    """Keep of each block what goes in, and nothing else, until its gradient is due (arXiv:1604.06174)."""
    for block in blocks:
        again = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
        block.forward = again  # type: ignore[method-assign]


def keep_blocks(blocks: Iterable[nn.Module]) -> None:
    """Take `checkpoint_blocks` back."""
    for block in blocks:
        vars(block).pop("forward", None)
