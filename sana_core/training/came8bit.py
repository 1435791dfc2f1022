"""CAME whose first moment is kept in 8 bits (SANA-1.5, arXiv:2501.18427): a quarter of its memory.

A moment is divided into blocks of at most BLOCK numbers, each with a scale of its own. A block never leaves its row (an
index of the first dimension), so shards hold whole blocks: any number of processes keeps the same numbers. Rows and
columns of the second moments stay in float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .came import Came, Share, local

BLOCK = 2048
SMALLEST = 16384  # numbers of a parameter; a smaller one keeps its moment in float32
NARROWEST = 16  # numbers of a row; a narrower one would hold more scale than moment
DECADES = 7


class Code(NamedTuple):
    """values: the 255 numbers from -1 to 1 that a code stands for, in order. middles: between them.

    Half as many numbers in each lower decade, from 64 between 0.1 and 1: a code in equal steps would lose small moments
    beside a large one. 0 and both ends are among them, so a moment that is coded again stays the same.
    """

    values: Tensor
    middles: Tensor

    @classmethod
    def on(cls, device: torch.device) -> Code:
        decades = [
            torch.linspace(0.1, 1.0, 2 ** (DECADES - 1 - decade) + 1, dtype=torch.float64)[1:] * 10.0**-decade
            for decade in range(DECADES)
        ]
        positive = torch.cat(decades).sort().values
        values = torch.cat([-positive.flip(0), torch.zeros(1, dtype=torch.float64), positive])
        return cls(values.float().to(device), ((values[1:] + values[:-1]) / 2).float().to(device))


def encode(moment: Tensor, code: Code) -> tuple[Tensor, Tensor]:
    """A moment (R, ...) as codes of the same shape, uint8, and scales (R, blocks), the largest number of each block."""
    rows = moment.flatten(1)
    blocks = -(-rows.shape[1] // BLOCK)
    width = -(-rows.shape[1] // blocks)
    pieces = F.pad(rows, (0, blocks * width - rows.shape[1])).unflatten(1, (blocks, width))
    scales = pieces.abs().amax(dim=-1)
    parts = (pieces / scales.clamp(min=torch.finfo(torch.float32).tiny).unsqueeze(-1)).flatten(1)
    codes = torch.bucketize(parts[:, : rows.shape[1]].contiguous(), code.middles, out_int32=True)
    return codes.to(torch.uint8).view(moment.shape), scales


def decode(codes: Tensor, scales: Tensor, code: Code) -> Tensor:
    """The moment that `encode` was given, rounded."""
    rows = codes.flatten(1)
    width = -(-rows.shape[1] // scales.shape[1])
    values = code.values.index_select(0, rows.flatten().int()).view(rows.shape)
    values *= scales.repeat_interleave(width, dim=1)[:, : rows.shape[1]]
    return values.view(codes.shape)


class Came8bit(Came):
    """`Came` with first moments in 8 bits, where a parameter is large enough. It takes the same arguments."""

    def _begin_moment(self, share: Share, gradient: Tensor, state: dict[str, Any]) -> None:
        shape = share.parameter.shape
        if share.parameter.numel() < SMALLEST or share.parameter.numel() < NARROWEST * shape[0]:
            super()._begin_moment(share, gradient, state)
            return
        codes, scales = encode(torch.zeros_like(gradient), self._code(gradient.device))
        state["exp_avg_codes"], state["exp_avg_scales"] = share.kept(codes), share.kept(scales)

    def _moment(self, state: Mapping[str, Any]) -> Tensor:
        if "exp_avg" in state:
            return super()._moment(state)
        codes, scales = local(state["exp_avg_codes"]), local(state["exp_avg_scales"])
        return decode(codes, scales, self._code(codes.device))

    def _keep_moment(self, state: dict[str, Any], moment: Tensor) -> None:
        if "exp_avg" not in state:
            codes, scales = encode(moment, self._code(moment.device))
            local(state["exp_avg_codes"]).copy_(codes)
            local(state["exp_avg_scales"]).copy_(scales)

    def _code(self, device: torch.device) -> Code:
        """Kept by the optimizer, as one that only counts memory has a code without values. Copies make their own."""
        kept = self.__dict__.setdefault("_codes", {})
        if device not in kept:
            kept[device] = Code.on(device)
        return kept[device]
