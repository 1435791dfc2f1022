"""One block of the Linear DiT: linear self-attention, cross-attention to the caption, Mix-FFN.

Tokens are (B, N, C), N = rows * columns of the latent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import LINEAR_HEAD_DIM, TransformerConfig
from ..geometry import Grid
from ..kernels.choice import Kernels
from ..kit import Kit
from .caption import Caption, Text

FLOAT16_MAX = 65504.0
TOKENS_AT_ONCE = 16384
"""One picture of 4096 x 4096, enough to keep a GPU busy. The feed-forward of the 1.6B models holds 0.7 GB for them."""

SelfAttention = Callable[[Tensor, Tensor, Tensor], Tensor]
"""query, key, value, each (B, N, C) -> (B, N, C)"""


class Stream(NamedTuple):
    """The residual stream between two blocks: tokens (B, N, C), and an update, times its gate, that is still to be
    added to them. The layer that comes next adds it, since the norm it begins with can do that on the way.
    """

    tokens: Tensor
    update: Tensor | None = None
    gate: Tensor | None = None  # (B, 1, C)


class SanaBlock(nn.Module):
    """Linear attention, cross-attention, Mix-FFN. Cross-attention has no norm on its input and no gate (SANA,
    fig. 5)."""

    def __init__(self, config: TransformerConfig, kit: Kit) -> None:
        super().__init__()
        self.attn1 = LinearAttention(config, kit)
        self.attn2 = CrossAttention(config, kit)
        self.ff = GLUMBConv(config, kit)
        self.scale_shift_table = kit.zeros(6, config.hidden_size)
        self.kernels = kit.kernels
        self.compiled: Callable[..., Stream] | None = None  # `layers` of all blocks, compiled

    def forward(
        self, x: Stream, caption: Caption, modulation: Tensor, grid: Grid, attend: SelfAttention | None = None
    ) -> Stream:
        """x: tokens (B, N, C); modulation: (B, 6, C).  attend: in place of the linear self-attention."""
        self.attn1.forget_what_is_apart()
        layers = self.compiled or SanaBlock.layers
        return layers(self, x, caption.read_by(self.attn2), modulation, grid, attend)

    def layers(self, x: Stream, text: Text, modulation: Tensor, grid: Grid, attend: SelfAttention | None) -> Stream:
        """The block on what it reads of a caption: tensors alone go in and out, so that it can be compiled once."""
        table = self.scale_shift_table.to(x.tokens) + modulation
        shift_attn, scale_attn, gate_attn, shift_ff, scale_ff, gate_ff = table.chunk(6, dim=1)
        tokens, normed = add_and_norm(self.kernels, x, shift_attn, scale_attn)
        tokens = self.kernels.gated_residual(tokens, self.attn1(normed, attend), gate_attn, self.attn1.limit)
        tokens, normed = add_and_norm(self.kernels, Stream(tokens, self.attn2(tokens, text)), shift_ff, scale_ff)
        return Stream(tokens, self.ff(normed, grid), gate_ff)


def add(kernels: Kernels, x: Stream) -> Tensor:
    """The tokens of a stream, (B, N, C), with its update."""
    return x.tokens if x.update is None else kernels.gated_residual(x.tokens, x.update, x.gate)


def add_and_norm(kernels: Kernels, x: Stream, shift: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens with their update, and the norm of them, modulated by shift and scale (B, 1, C)."""
    if x.update is None:
        return x.tokens, kernels.modulated_norm(x.tokens, shift, scale)
    return kernels.gated_residual_norm(x.tokens, x.update, x.gate, None, shift, scale)


class LinearAttention(nn.Module):
    """ReLU linear self-attention (SANA, arXiv:2410.10629, sec. 2.2), (B, N, C) -> (B, N, C).

    With qk-norm the RMS norms run over all heads together.  limit: the block clamps the output of models trained in
    float16 to the range of float16, as in their training: they draw broken pictures without it, in any number type.
    """

    def __init__(self, config: TransformerConfig, kit: Kit) -> None:
        super().__init__()
        size = config.hidden_size
        self.to_q = kit.linear(size, size, bias=False)
        self.to_k = kit.linear(size, size, bias=False)
        self.to_v = kit.linear(size, size, bias=False)
        self.norm_q = kit.rms_norm(size, eps=1e-5) if config.qk_norm else nn.Identity()
        self.norm_k = kit.rms_norm(size, eps=1e-5) if config.qk_norm else nn.Identity()
        self.to_out = nn.ModuleList([kit.linear(size, size)])
        self.kit, self.kernels = kit, kit.kernels
        self.joined: Tensor | None = None
        self.limit = FLOAT16_MAX if config.fp16_trained is not False else None

    def forward(self, x: Tensor, attend: SelfAttention | None = None) -> Tensor:
        """attend: in place of the linear attention between the projections."""
        return self.to_out[0](in_passes(self._attend, x) if attend is None else attend(*self._projections(x)))

    def join_projections(self) -> None:
        """Lay the weights of q, k and v side by side in memory, so that one matrix product makes all three.

        The three layers keep their names and their weights, which are parts of it now; changes in place are seen. The
        parts are apart again once something moves or replaces a weight, and the products too. Quantised weights stay
        apart.
        """
        layers = (self.to_q, self.to_k, self.to_v)
        if not all(self.kit.is_ours(layer) for layer in layers):
            return
        self.joined = torch.cat([layer.weight.data for layer in layers])
        for layer, part in zip(layers, self.joined.chunk(3)):
            layer.weight.data = part

    def _projections(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weight = self._usable_joined(x)
        if weight is not None:
            query, key, value = F.linear(x, weight).chunk(3, dim=-1)
        else:
            query, key, value = self.to_q(x), self.to_k(x), self.to_v(x)
        return self.norm_q(query), self.norm_k(key), value

    def _usable_joined(self, x: Tensor) -> Tensor | None:
        """The joined weights, if they are those that the layers would use."""
        layers, joined = (self.to_q, self.to_k, self.to_v), self.joined
        if joined is None or not all(self.kit.is_bare(layer, x) for layer in layers):
            return None
        if torch.is_grad_enabled() and any(layer.weight.requires_grad for layer in layers):
            return None
        return joined

    def forget_what_is_apart(self) -> None:
        """Forget the joined weights if a layer has others now. A compiled graph cannot ask."""
        layers, joined = (self.to_q, self.to_k, self.to_v), self.joined
        if joined is None or torch.compiler.is_compiling():
            return
        if not all(self.kit.is_ours(layer) and alias(layer.weight, joined) for layer in layers):
            self.joined = None

    def _attend(self, x: Tensor) -> Tensor:
        heads = (projection.unflatten(-1, (-1, LINEAR_HEAD_DIM)) for projection in self._projections(x))
        return self.kernels.linear_attention(*heads, eps=1e-8).flatten(-2)


def alias(part: Tensor, whole: Tensor) -> bool:
    """Do two tensors lie in the same memory?"""
    return part.untyped_storage()._cdata == whole.untyped_storage()._cdata


def attend_to_itself(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Every token attends to itself alone: the perturbation of PAG (arXiv:2403.17377, sec. 4)."""
    return value


class CrossAttention(nn.Module):
    """Softmax attention from picture tokens (B, N, C) to the caption's tokens (P, L, C): P prompts, each for B / P
    pictures in a row.
    """

    def __init__(self, config: TransformerConfig, kit: Kit) -> None:
        super().__init__()
        size = config.hidden_size
        self.to_q = kit.linear(size, size)
        self.to_k = kit.linear(size, size)
        self.to_v = kit.linear(size, size)
        self.norm_q = kit.rms_norm(size, eps=1e-6) if config.qk_norm else nn.Identity()
        self.norm_k = kit.rms_norm(size, eps=1e-6) if config.qk_norm else nn.Identity()
        self.to_out = nn.ModuleList([kit.linear(size, size)])
        self.heads = config.num_cross_heads
        self.attention = kit.attention

    def forward(self, x: Tensor, text: Text) -> Tensor:
        query = self.norm_q(self.to_q(x))
        rows = query.unflatten(0, (len(text.key), -1)).flatten(1, 2)  # pictures of one prompt in one row
        y = self.attention(rows, text.key, text.value, self.heads, bias=text.bias, options=text.options)
        return self.to_out[0](y.view_as(query))

    def keys_values(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Caption tokens (B, L, C) -> keys and values, (B, L, C) each. They depend on the prompt alone."""
        return self.norm_k(self.to_k(tokens)), self.to_v(tokens)


class GLUMBConv(nn.Module):
    """Mix-FFN (SANA, arXiv:2410.10629, sec. 2.2): expand, 3x3 depthwise, gate, project; (B, N, C) -> (B, N, C).

    The 1x1 convolutions of the paper are Linear layers on tokens, which can be quantised and need no transposes. The
    zero padding of the 3x3 tells the 512 and 1024 px models where they are: never run it on parts of a picture.
    """

    def __init__(self, config: TransformerConfig, kit: Kit) -> None:
        super().__init__()
        self.conv_inverted = kit.linear(config.hidden_size, 2 * config.ffn_size)
        self.conv_depth = kit.depthwise(2 * config.ffn_size, 3)
        self.conv_point = kit.linear(config.ffn_size, config.hidden_size, bias=False)
        self.kit = kit

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        return in_passes(lambda part: self._mix(part, grid), x)

    def _mix(self, x: Tensor, grid: Grid) -> Tensor:
        maps = grid.maps(self.conv_inverted(x))
        return self.conv_point(grid.tokens(self.kit.gated_depthwise(self.conv_depth, maps)))


def in_passes(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """function(x), for a function that treats each sequence of x (B, N, C) on its own, in passes of TOKENS_AT_ONCE.

    At least one sequence runs at a time. This bounds what a layer holds in large batches. The result is the same up to
    the rounding of matrix kernels, which depends on the batch.
    """
    sequences = max(1, TOKENS_AT_ONCE // x.shape[1])
    return function(x) if x.shape[0] <= sequences else torch.cat([function(part) for part in x.split(sequences)])
