"""Compose the drawings on backgrounds: the pictures both trainings see. Values are -1..1, layout (B, 3, 128, 128)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SMALL = 0.55  # scale of "a small X"


def load_drawings(path: Path, name: str) -> Tensor:
    """Premultiplied RGBA in 0..1, (N, 4, 128, 128), of one array of WORK/images.npz."""
    rgba = torch.from_numpy(np.load(path)[name]).permute(0, 3, 1, 2).float() / 255
    return torch.cat([rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], dim=1)


def place(drawings: Tensor, scale: Tensor, shift: Tensor, mirror: Tensor) -> Tensor:
    """Resize about the centre by `scale` (B,), move by `shift` (B, 2) in half picture widths, mirror where `mirror` (B,) is true."""
    zoom = 1 / scale
    flip = torch.where(mirror, -1.0, 1.0)
    matrix = torch.zeros(len(drawings), 2, 3)
    matrix[:, 0, 0] = zoom * flip
    matrix[:, 1, 1] = zoom
    matrix[:, 0, 2] = -shift[:, 0] * zoom * flip
    matrix[:, 1, 2] = -shift[:, 1] * zoom
    grid = F.affine_grid(matrix, list(drawings.shape), align_corners=False)
    # an enlarged sampling step would alias: average over 2x2 sub-pixels where the drawing shrinks
    small = zoom > 1.3
    placed = F.grid_sample(drawings, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    if small.any():
        soft = F.avg_pool2d(F.pad(drawings[small], (0, 1, 0, 1)), 2, stride=1)
        placed[small] = F.grid_sample(soft, grid[small], mode="bilinear", padding_mode="zeros", align_corners=False)
    return placed


def compose(drawings: Tensor, colours: Tensor) -> Tensor:
    """Premultiplied RGBA over plain colours (B, 3) in 0..1 -> pictures in -1..1."""
    return (drawings[:, :3] + (1 - drawings[:, 3:]) * colours[:, :, None, None]) * 2 - 1
