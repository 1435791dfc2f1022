"""Building blocks of DC-AE (arXiv:2410.10733), on (B, C, H, W) maps. Parameter names follow diffusers' `AutoencoderDC`.

All but the attention are local. Tiles and strips must know of each: `reach(start, stop)`, the input rows (columns
alike) that its output rows [start, stop) depend on, disregarding the borders of the picture; `scale`, output size by
input size; `out_channels`; and `working_bytes(size)`, what it holds at its worst moment with numbers of `size` bytes,
result included, in bytes per output position. Blocks with a residual are `x + branch(x)`, and these figures are those
of the branch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import LINEAR_HEAD_DIM
from ..kit import Kit
from .doubling import PHASES, add_averages, doubled_convolution, spread_channels

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


def in_place(activation: Callable[..., Tensor], x: Tensor) -> Tensor:
    """The activation, written over x unless training needs x again."""
    return activation(x, inplace=not x.requires_grad)


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
        return self.branch(x, x)

    def branch(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        return self.norm(self.conv2(in_place(F.silu, self.conv1(x))), residual)

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
        self.kit = kit

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, groups, 32, H, W)."""
        x = self.proj_in(x)
        if not self.kit.is_bare(self.proj_out, x):
            return split_groups(self.proj_out(x))
        weight = self.proj_out.weight.flatten(1).unflatten(0, (-1, LINEAR_HEAD_DIM))
        tokens = x.movedim(1, -1)
        groups = tokens.flatten(0, 2).unflatten(-1, (-1, LINEAR_HEAD_DIM)).transpose(0, 1)
        return torch.bmm(groups, weight.mT).unflatten(1, tokens.shape[:3]).permute(1, 0, 4, 2, 3)


class LiteMLA(nn.Module):
    """Multi-scale linear attention over the whole map, with residual (EfficientViT, arXiv:2205.14756, sec. 3.1).

    Head h of a scale owns channels [96 h, 96 h + 96) of it, as q, k, v of 32 channels each.
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
        self.kit = kit
        self.kernels = kit.kernels
        self.out_channels = channels

    def forward(self, x: Tensor) -> Tensor:
        attend = self.kernels.linear_attention
        return self.merge([attend(*self.heads(scale), eps=ATTENTION_EPS) for scale in self.scales(x)], x, x)

    def scales(self, x: Tensor) -> Iterator[Tensor]:
        """q, k and v at one scale, then at the other, each (B, groups, 32, H, W). The second reaches two rows and
        columns. The heads of a scale do not see those of the other, so that one scale can go before the next is
        used.
        """
        qkv = self.project(x)
        yield split_groups(qkv)
        yield self.to_qkv_multiscale[0](qkv)

    def project(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 3 C, H, W)."""
        tokens, layers = x.movedim(1, -1), (self.to_q, self.to_k, self.to_v)
        if all(self.kit.is_bare(layer, x) for layer in layers):
            qkv = F.linear(tokens, torch.cat([layer.weight for layer in layers]))
        else:
            qkv = torch.cat([layer(tokens) for layer in layers], dim=-1)
        return qkv.movedim(-1, 1)

    @staticmethod
    def heads(scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, groups, 32, H, W) -> query, key, value, each (B, H W, heads, 32)."""
        tokens = scale.flatten(3).permute(0, 3, 1, 2)
        return tokens[:, :, 0::3], tokens[:, :, 1::3], tokens[:, :, 2::3]

    def merge(self, attended: list[Tensor], x: Tensor, residual: Tensor | None = None) -> Tensor:
        """(B, H W, heads, 32) of both scales -> what is added to x (B, C, H, W), or with a residual the sum."""
        y = self.to_out(torch.cat(attended, dim=2).flatten(2))
        return self.norm_out(y.unflatten(1, x.shape[-2:]).movedim(-1, 1), residual)

    def working_bytes(self, size: int) -> int:
        """Both scales, the query and the answers of both, and an answer before it is rounded."""
        return self.out_channels * (9 * size + max(size, 4))

    @staticmethod
    def reach(start: int, stop: int) -> tuple[int, int]:
        """Of `scales`; the sums over tokens reach everywhere."""
        return start - 2, stop + 2


def split_groups(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C / 32, 32, H, W)."""
    return x.unflatten(1, (-1, LINEAR_HEAD_DIM))


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
        return self.branch(x, x)

    def branch(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        y = self.kit.gated_depthwise(self.conv_depth, self.conv_inverted(x), in_one_piece=True)
        return self.norm(self.conv_point(y), residual)

    def working_bytes(self, size: int) -> int:
        """Three maps of the expanded width: before and after the convolution, the gate and the product."""
        return 24 * self.out_channels * size

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
        return add_averages(self.conv(x), x)

    def working_bytes(self, size: int) -> int:
        """The convolution's result and the averages."""
        return (self.out_channels + max(self.in_channels, self.out_channels)) * size

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
        self.kit = kit

    def forward(self, x: Tensor) -> Tensor:
        if self.kit.is_bare(self.conv, x):
            return spread_channels(doubled_convolution(x, self.conv.weight, self.conv.bias), x)
        y = self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))
        return spread_channels([y[..., a::2, b::2] for a, b in PHASES], x)

    def working_bytes(self, size: int) -> int:
        """The convolution's result, in whatever order, and the sum."""
        return 2 * self.out_channels * size

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
        y = self.conv(x)
        return spread_channels([y[:, k::4] for k in range(4)], x) if self.shortcut else F.pixel_shuffle(y, 2)

    def working_bytes(self, size: int) -> int:
        return 2 * self.out_channels * size

    @staticmethod
    def reach(start: int, stop: int) -> tuple[int, int]:
        return start // 2 - 1, (stop + 1) // 2 + 1
