"""Edge maps in the form that SANA's ControlNets were trained on: binary lines of one width, white on black.

The steps of NVlabs/Sana `tools/controlnet/utils.py` after the edge map: thin to ridges, blur, threshold, set the line
width. Pixel values there are 8-bit, and OpenCV's 8-bit blur uses weights in 256ths. They decide where a line ends, so
the same weights are used here.
"""

from __future__ import annotations

import logging
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError

SIGMA = 3.0  # of both blurs, in pixels
RIDGE, LINE = 127.0, 4.0  # thresholds, of 255
MAX_THICKNESS = 24
RIDGE_WEIGHTS = tuple(math.exp(-0.5 * (x / SIGMA) ** 2) for x in range(-12, 13))
LINE_WEIGHTS = (1, 3, 4, 9, 14, 20, 28, 32, 34, 32, 28, 20, 14, 9, 4, 3, 1)  # of 256
DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1))  # rows, columns
log = logging.getLogger("sana")


def soft_edge(edges: Tensor, *, thickness: int = 2, thin: bool = False) -> Tensor:
    """An edge map (B, C, H, W) in 0..1, white on black -> lines (B, 3, H, W), float32, of 0 and 1.

    thin: the lines are one pixel wide, as Canny makes them. Otherwise they are soft and several pixels wide, as HED
    makes them, and are thinned first; lines less than about 5 pixels wide get lost. thickness: 0 to 24. Lines are 8
    pixels wide at 0, 11 at 1 to 3, and 10 + thickness // 2 from 4 on. Runs on the CPU, in float64, which several
    kinds of device lack; the result is where `edges` is. Raises InputError for another thickness, and for pictures
    below 16 pixels.
    """
    if not isinstance(edges, Tensor):
        raise InputError(f"an edge map is a tensor (B, C, H, W) in 0..1, got {type(edges).__name__}")
    if not 0 <= thickness <= MAX_THICKNESS:
        raise InputError(f"the thickness of soft edges is 0 to {MAX_THICKNESS}, got {thickness}")
    if edges.ndim != 4 or min(edges.shape[-2:]) < 16:
        raise InputError(f"an edge map is (B, C, H, W) of at least 16 x 16 pixels, got {tuple(edges.shape)}")
    white = 1.0 if edges.dtype == torch.uint8 else 255.0
    grey = edges.cpu().float().mean(dim=1, keepdim=True) * white
    ridges = grey > RIDGE if thin else _ridges(grey)
    lines = (_blur(ridges.float() * 255.0, LINE_WEIGHTS, 256).round() > LINE).float()
    if not ridges.any() and (grey > RIDGE).any():
        log.warning(
            "no line of the edge map is wide enough to be taken for a soft edge: for thin lines, such as Canny's, "
            'choose "thin"'
        )
    return _with_thickness(lines, thickness).repeat(1, 3, 1, 1).to(edges.device)


def _ridges(grey: Tensor) -> Tensor:
    """(B, 1, H, W) in 0..255 -> bool: blurred, brighter than RIDGE, and in some direction no neighbour is brighter."""
    # summed in float64, so that equal sums stay equal after rounding
    blurred = _blur(grey.double(), RIDGE_WEIGHTS, sum(RIDGE_WEIGHTS)).float()
    padded = F.pad(blurred, (1, 1, 1, 1), value=-math.inf)
    height, width = blurred.shape[-2:]

    def neighbour(rows: int, columns: int) -> Tensor:
        return padded[..., 1 + rows : 1 + rows + height, 1 + columns : 1 + columns + width]

    crests = [(blurred >= neighbour(r, c)) & (blurred >= neighbour(-r, -c)) for r, c in DIRECTIONS]
    return torch.stack(crests).any(0) & (blurred > RIDGE)


def _blur(image: Tensor, weights: tuple[float, ...], total: float) -> Tensor:
    """Separable convolution of (B, 1, H, W) with weights / total, mirrored at the borders."""
    margin = len(weights) // 2
    kernel = image.new_tensor(weights)
    padded = F.pad(image, (margin,) * 4, mode="reflect")
    across = F.conv2d(padded, kernel.view(1, 1, 1, -1))
    return F.conv2d(across, kernel.view(1, 1, -1, 1)) / total**2


def _with_thickness(lines: Tensor, thickness: int) -> Tensor:
    """Lines (B, 1, H, W) of 0 and 1, eroded (thickness 0) or dilated (4 and more); an even window reaches one pixel
    further up and left.
    """
    size = 4 if thickness == 0 else max(thickness // 2, 1)
    sign = -1.0 if thickness == 0 else 1.0
    before, after = size // 2, size - 1 - size // 2
    padded = F.pad(sign * lines, (before, after, before, after), value=-math.inf)
    return sign * F.max_pool2d(padded, size, stride=1)
