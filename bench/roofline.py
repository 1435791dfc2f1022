"""What a fused implementation has to compute and move at the least, and how long a GPU needs for that.

The roofline of a case is the sum over its kernels of the longer of two times: operations over the peak of the matrix
units, bytes over the bandwidth. Both ceilings are measured on the spot.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
import torch.nn.functional as F

from bench.paired import Clock
from sana_core.config import TransformerConfig
from sana_core.geometry import DC_AE_F32

# Of the whole DC-AE decoder at 1024 px: operations as PyTorch's FlopCounter finds them, and what a plan with fused
# norms moves in 16 bit. Both grow with the area.
DECODE_FLOP, DECODE_BYTES = 8.369e12, 15.7e9
COPIED = 1 << 30  # elements
SQUARE = 8192


@dataclass(frozen=True)
class Kernel:
    """operations: a multiplication and an addition are two.  bytes_: read and written."""

    operations: float
    bytes_: float


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """operations: per second, of the largest matrix product.  bandwidth: bytes per second, read and written."""

    operations: float
    bandwidth: float

    def milliseconds(self, kernels: tuple[Kernel, ...]) -> float:
        return 1e3 * sum(max(k.operations / self.operations, k.bytes_ / self.bandwidth) for k in kernels)


def step_kernels(config: TransformerConfig, pixels: int, tokens: int, itemsize: int) -> tuple[Kernel, ...]:
    """The blocks of one step, keys and values of the prompts known. Two sequences, or Sprint's one."""
    sequences = 1 if config.guidance_embed else 2
    width, ffn, rows = config.hidden_size, config.ffn_size, sequences * (pixels // DC_AE_F32.downscale) ** 2
    text = sequences * tokens

    def product(inputs: int, outputs: int) -> Kernel:
        moved = rows * (inputs + outputs) + inputs * outputs
        return Kernel(2.0 * rows * inputs * outputs, float(itemsize * moved))

    def passing(widths: float, operations: float = 0.0, extra: float = 0.0) -> Kernel:
        """Reads and writes so many times the tokens."""
        return Kernel(operations * rows * width, itemsize * (widths * rows * width + extra))

    depthwise = 2 * ffn / width + ffn / width
    block = (
        passing(4),  # add the update, norm and modulate: two inputs, two outputs
        product(width, 3 * width),
        passing(2, 66),  # state of the linear attention
        passing(2, 66),  # answers to the queries
        product(width, width),
        passing(3),  # add the attention
        product(width, width),
        passing(2, 4 * tokens, 2 * text * width),  # softmax attention
        product(width, width),
        passing(4),
        product(width, 2 * ffn),
        passing(depthwise, 18 * 2 * ffn / width),
        product(ffn, width),
    )
    return block * config.depth


def decode_kernels(pixels: int, itemsize: int) -> tuple[Kernel, ...]:
    """As one kernel: its parts have not been told apart."""
    area = (pixels / 1024) ** 2
    return (Kernel(DECODE_FLOP * area, DECODE_BYTES * area * itemsize / 2),)


def measure(clock: Clock, dtype: torch.dtype, copied: int = COPIED, square: int = SQUARE) -> Ceilings:
    """The best of a few copies of so many elements, and the median of a few products of square matrices."""
    source = torch.empty(copied, device=clock.device, dtype=dtype)
    target = torch.empty_like(source)
    copy = min(clock.timed(partial(target.copy_, source), 5)[0] for _ in range(4))
    a, b = (torch.randn(square, square, device=clock.device, dtype=dtype) for _ in range(2))
    product = median(clock.timed(partial(torch.mm, a, b), 5)[0] for _ in range(6))
    return Ceilings(operations=2e3 * square**3 / product, bandwidth=2e3 * source.nbytes / copy)


def product_rates(clock: Clock, dtype: torch.dtype, config: TransformerConfig, pixels: int) -> dict[str, float]:
    """TFLOP/s of the block's matrix products in the sizes of a step."""
    rows = 2 * (pixels // DC_AE_F32.downscale) ** 2
    width, ffn = config.hidden_size, config.ffn_size
    shapes = {
        "q, k, v": (width, 3 * width),
        "square": (width, width),
        "expand": (width, 2 * ffn),
        "project": (ffn, width),
    }
    rates = {}
    for name, (inputs, outputs) in shapes.items():
        x = torch.randn(rows, inputs, device=clock.device, dtype=dtype)
        weight = torch.randn(outputs, inputs, device=clock.device, dtype=dtype)
        fastest = min(clock.timed(partial(F.linear, x, weight), 20)[0] for _ in range(3))
        rates[name] = 2e-9 * rows * inputs * outputs / fastest
    return rates
