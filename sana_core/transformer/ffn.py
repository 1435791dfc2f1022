"""The convolutional feed-forward of the Linear DiT."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..config import TransformerConfig
from .passes import in_passes


class GLUMBConv(nn.Module):
    """Mix-FFN (SANA, arXiv:2410.10629, sec. 2.2): expand, 3x3 depthwise, gate, project; (B, h*w, C) -> (B, h*w, C).

    The 1x1 convolutions of the paper are Linear layers on tokens, which quantises and avoids transposes. The zero
    padding of the 3x3 is what tells the 512 and 1024 px models where they are: never run it on parts of a picture.
    """

    def __init__(self, config: TransformerConfig, *, ops: Any, device=None, dtype=None) -> None:
        super().__init__()
        factory, expanded = {"device": device, "dtype": dtype}, 2 * config.ffn_size
        self.conv_inverted = ops.Linear(config.hidden_size, expanded, **factory)
        self.conv_depth = ops.Conv2d(expanded, expanded, 3, padding=1, groups=expanded, **factory)
        self.conv_point = ops.Linear(config.ffn_size, config.hidden_size, bias=False, **factory)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        return in_passes(lambda part: self._mix(part, grid), x)

    def _mix(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        y = self.conv_inverted(x)
        y = F.silu(y, inplace=not y.requires_grad)  # in training its input is needed again
        y = y.transpose(1, 2).unflatten(2, grid)  # (B, 2 ffn, h, w), channels-last in memory
        y, gate = self.conv_depth(y).flatten(2).transpose(1, 2).chunk(2, dim=-1)
        return self.conv_point(y * F.silu(gate))
