"""Building blocks of DC-AE (arXiv:2410.10733), on (B, C, H, W) maps. Parameter names follow diffusers' `AutoencoderDC`.

All but the attention are local. Tiles and strips must know of each: `reach(start, stop)`, the input rows (columns
alike) that its output rows [start, stop) depend on, disregarding the borders of the picture; `scale`, output size by
input size; `out_channels`; and `working_bytes(size)`, what it holds at its worst moment with numbers of `size` bytes,
result included, in bytes per output position. Blocks with a residual are `x + branch(x)`, and these figures are those
of the branch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import LINEAR_HEAD_DIM
from ..kit import Kit

ATTENTION_EPS = 1e-15


class RMSNorm2d(nn.Module):
    """RMS normalisation over the channels with weight and bias, eps 1e-5, computed in float32 (float64 for float64) and
    cast once.
    """

    def __init__(self, channels: int, kit: Kit) -> None:
        super().__init__()
        self.weight = kit.ones(channels)
        self.bias = kit.zeros(channels)
        self.kernels = kit.kernels

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """residual: added to the result."""
        weight, bias = self.weight.to(x.device), self.bias.to(x.device)  # a host may hold them elsewhere
        return self.kernels.rms_norm_2d(x, weight, bias, residual)


def norm_bytes(size: int) -> int:
    """Bytes per number while `RMSNorm2d` runs: its input, the float32 map and the result, which may be one."""
    return size + max(size, 4) + (size if size < 4 else 0)


class ResBlock(nn.Module):
    """x + norm(conv(silu(conv(x))))."""

    scale = 1

    def __init__(self, channels: int, kit: Kit) -> None:
        super().__init__()
        self.conv1 = kit.conv2d(channels, channels, 3, padding=1)
        self.conv2 = kit.conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = RMSNorm2d(channels, kit)
        self.out_channels = channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)

    def branch(self, x: Tensor) -> Tensor:
        return self.norm(self.conv2(F.silu(self.conv1(x))))

    def working_bytes(self, size: int) -> int:
        return self.out_channels * norm_bytes(size)

    @staticmethod
    def reach(start: int, stop: int) -> tuple[int, int]:
        return start - 2, stop + 2


class MultiscaleProjection(nn.Module):
    """The second scale of q, k and v: a 5x5 depthwise convolution, then a 1x1 convolution within each group of 32
    channels.
    """

    def __init__(self, channels: int, kit: Kit) -> None:
        super().__init__()
        self.proj_in = kit.depthwise(channels, 5, bias=False)
        self.proj_out = kit.conv2d(channels, channels, 1, groups=channels // LINEAR_HEAD_DIM, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj_out(self.proj_in(x))


class LiteMLA(nn.Module):
    """Multi-scale linear attention over the whole map, with residual (EfficientViT, arXiv:2205.14756, sec. 3.1).

    Head h owns channels [96 h, 96 h + 96) of the concatenated scales, as q, k, v of 32 channels each.
    """

    scale = 1

    def __init__(self, channels: int, kit: Kit) -> None:
        super().__init__()
        self.to_q = kit.linear(channels, channels, bias=False)
        self.to_k = kit.linear(channels, channels, bias=False)
        self.to_v = kit.linear(channels, channels, bias=False)
        self.to_qkv_multiscale = nn.ModuleList([MultiscaleProjection(3 * channels, kit)])
        self.to_out = kit.linear(2 * channels, channels, bias=False)
        self.norm_out = RMSNorm2d(channels, kit)
        self.kernels = kit.kernels
        self.out_channels = channels

    def forward(self, x: Tensor) -> Tensor:
        attended = self.kernels.linear_attention(*self.heads(self.scales(x)), eps=ATTENTION_EPS)
        return x + self.merge(attended, x)

    def scales(self, x: Tensor) -> Tensor:
        """q, k and v at both scales, (B, 6 C, H, W). The second one reaches two rows and columns."""
        tokens = x.movedim(1, -1)
        qkv = torch.cat([self.to_q(tokens), self.to_k(tokens), self.to_v(tokens)], dim=-1).movedim(-1, 1)
        return torch.cat([qkv, self.to_qkv_multiscale[0](qkv)], dim=1)

    @staticmethod
    def heads(scales: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 6 C, H, W) -> query, key, value, each (B, H W, heads, 32)."""
        query, key, value = scales.flatten(2).mT.unflatten(-1, (-1, 3, LINEAR_HEAD_DIM)).unbind(3)
        return query, key, value

    def merge(self, attended: Tensor, x: Tensor) -> Tensor:
        """(B, H W, heads, 32) -> what is added to x (B, C, H, W)."""
        y = self.to_out(attended.flatten(2))
        return self.norm_out(y.mT.unflatten(-1, x.shape[-2:]))

    def working_bytes(self, size: int) -> int:
        """All scales, and as much again in float32: query, answer and its quotient."""
        return 6 * self.out_channels * (size + max(size, 4))

    @staticmethod
    def reach(start: int, stop: int) -> tuple[int, int]:
        """Of `scales`; the sums over tokens reach everywhere."""
        return start - 2, stop + 2


class GLUMBConv(nn.Module):
    """Gated inverted bottleneck of width 4 C with a 3x3 depthwise convolution, RMS norm, residual (SANA, sec. 2.2)."""

    scale = 1

    def __init__(self, channels: int, kit: Kit) -> None:
        super().__init__()
        hidden = 4 * channels
        self.conv_inverted = kit.conv2d(channels, 2 * hidden, 1)
        self.conv_depth = kit.depthwise(2 * hidden, 3)
        self.conv_point = kit.conv2d(hidden, channels, 1, bias=False)
        self.norm = RMSNorm2d(channels, kit)
        self.out_channels = channels
        self.kit = kit

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)

    def branch(self, x: Tensor) -> Tensor:
        y = self.kit.gated_depthwise(self.conv_depth, self.conv_inverted(x))
        return self.norm(self.conv_point(y))

    def working_bytes(self, size: int) -> int:
        """Two maps of the expanded width."""
        return 16 * self.out_channels * size

    @staticmethod
    def reach(start: int, stop: int) -> tuple[int, int]:
        return start - 1, stop + 1


class EfficientViTBlock(nn.Module):
    """Global linear attention, then a local gated convolution."""

    def __init__(self, channels: int, kit: Kit) -> None:
        super().__init__()
        self.attn = LiteMLA(channels, kit)
        self.conv_out = GLUMBConv(channels, kit)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_out(self.attn(x))


class Downsample(nn.Module):
    """3x3 convolution of stride 2, plus pixel-unshuffle averaged over groups of channels (DC-AE, sec. 3.1)."""

    scale = 0.5

    def __init__(self, in_channels: int, out_channels: int, kit: Kit) -> None:
        super().__init__()
        self.conv = kit.conv2d(in_channels, out_channels, 3, stride=2, padding=1)
        self.in_channels, self.out_channels = in_channels, out_channels

    def forward(self, x: Tensor) -> Tensor:
        shortcut = F.pixel_unshuffle(x, 2).unflatten(1, (self.out_channels, -1)).mean(dim=2)
        return self.conv(x) + shortcut

    def working_bytes(self, size: int) -> int:
        return max(4 * self.in_channels + self.out_channels, 3 * self.out_channels) * size

    @staticmethod
    def reach(start: int, stop: int) -> tuple[int, int]:
        """One row above the first; two, so that the pairs of rows stay pairs."""
        return 2 * start - 2, 2 * stop


class InterpolateUpsample(nn.Module):
    """Nearest-neighbour doubling and a 3x3 convolution, plus repeated channels pixel-shuffled (DC-AE, sec. 3.1)."""

    scale = 2

    def __init__(self, in_channels: int, out_channels: int, kit: Kit) -> None:
        super().__init__()
        self.conv = kit.conv2d(in_channels, out_channels, 3, padding=1)
        self.in_channels, self.out_channels = in_channels, out_channels

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest")) + channel_to_space(x, self.out_channels)

    def working_bytes(self, size: int) -> int:
        return max(self.in_channels + self.out_channels, 3 * self.out_channels) * size

    @staticmethod
    def reach(start: int, stop: int) -> tuple[int, int]:
        return (start - 1) // 2, (stop + 2) // 2


class ShuffleUpsample(nn.Module):
    """The Lite decoder's upsampling: a 3x3 convolution to four times the channels and pixel-shuffle, with or without
    the shortcut.
    """

    scale = 2

    def __init__(self, in_channels: int, out_channels: int, kit: Kit, *, shortcut: bool) -> None:
        super().__init__()
        self.conv = kit.conv2d(in_channels, 4 * out_channels, 3, padding=1)
        self.out_channels = out_channels
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = F.pixel_shuffle(self.conv(x), 2)
        return y + channel_to_space(x, self.out_channels) if self.shortcut else y

    def working_bytes(self, size: int) -> int:
        return 3 * self.out_channels * size

    @staticmethod
    def reach(start: int, stop: int) -> tuple[int, int]:
        return start // 2 - 1, (stop + 1) // 2 + 1


def channel_to_space(x: Tensor, out_channels: int) -> Tensor:
    """Parameter-free shortcut of upsampling: (B, C, H, W) -> (B, out_channels, 2 H, 2 W), each channel repeated in a
    row.
    """
    return F.pixel_shuffle(x.repeat_interleave(4 * out_channels // x.shape[1], dim=1), 2)
