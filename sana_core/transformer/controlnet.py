"""ControlNet for the Linear DiT: copies of its first blocks turn a picture's latent into residuals for the blocks that
follow.

The same weights are connected in two ways, which give different pictures. NVlabs trained with the first
(NVlabs/Sana `diffusion/model/nets/sana_multi_scale_controlnet.py`); the second is diffusers' `SanaControlNetModel`.

    upstream    begins with the output of the transformer's block 0, its modulation and its caption;
                residual i is added to the output of block i, so that block i + 1 reads it
    diffusers   begins with the embedded latent, and with modulation and caption from embedders of its own;
                residual i is added to the output of block i + 1
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import cast

from torch import Tensor, nn

from ..config import TransformerConfig
from ..errors import InputError
from ..geometry import Grid
from ..kit import Kit
from .block import SanaBlock, Stream, add
from .caption import Caption
from .embeddings import CaptionProjection, PatchEmbed, TimeEmbed

ORDERS = ("upstream", "diffusers")


@dataclass(frozen=True)
class ControlBranch:
    """A ControlNet at work.

    latent: of the control pictures, (B, 32, h, w), of about unit variance, repeated to the transformer's batch, which B
    divides.  scale: factor of the residuals, 1 as trained.
    """

    network: SanaControlNet
    latent: Tensor
    scale: float = 1.0


@dataclass(frozen=True, kw_only=True)
class BaseState:
    """State of the transformer after its block 0, from which ControlNets begin."""

    config: TransformerConfig
    patch_embed: PatchEmbed
    latent: Tensor  # (B, 32, h, w)
    timestep: Tensor  # (B,)
    caption: Caption
    modulation: Tensor  # (B, 6, C)
    tokens: Tensor  # (B, h*w, C), after block 0


class SanaControlNet(nn.Module):
    """The copied blocks, a layer before them and a layer behind each. Parameter names follow diffusers'
    `SanaControlNetModel`.

    config: as of the transformer, with the number of copied blocks as its depth.  embedders: the file brings embedders
    of its own, as diffusers' do; else the transformer's serve.  order: "upstream" or "diffusers", see above.  Raises
    InputError for another order.
    """

    def __init__(
        self,
        config: TransformerConfig,
        kit: Kit | None = None,
        *,
        embedders: bool = False,
        order: str = "upstream",
    ) -> None:
        super().__init__()
        if order not in ORDERS:
            raise InputError(f'order="{order}", expected one of {", ".join(ORDERS)}')
        kit, size = kit or Kit(), config.hidden_size
        self.config, self.order = config, order
        self.patch_embed = PatchEmbed(config, kit) if embedders else None
        self.time_embed = TimeEmbed(config, kit) if embedders else None
        self.caption_projection = CaptionProjection(config, kit) if embedders else None
        self.caption_norm = kit.rms_norm(size, eps=1e-5) if embedders else None
        self.input_block = kit.linear(size, size)
        self.transformer_blocks = nn.ModuleList(SanaBlock(config, kit) for _ in range(config.depth))
        self.controlnet_blocks = nn.ModuleList(kit.linear(size, size) for _ in range(config.depth))
        self.kernels = kit.kernels

    def residuals(self, latent: Tensor, base: BaseState, scale: float = 1.0) -> Iterator[Tensor | None]:
        """What is added to the outputs of the transformer's blocks 0, 1, 2 ...: (B, h*w, C), or None.

        A generator, so that only one residual is held at a time.  latent: of the control picture, (B or fewer, 32, h,
        w).  Raises InputError if it does not fit.
        """
        self.check_base(base.config)
        control = _matching(latent, base.latent)
        if self.order == "diffusers":
            yield None
            x, caption, modulation = self._begin_beside(control, base)
        else:
            x, caption, modulation = self._begin_behind(control, base)
        grid, stream = Grid.of(control), Stream(x)
        for block, project in zip(cast(Sequence[SanaBlock], self.transformer_blocks), self.controlnet_blocks):
            stream = Stream(add(self.kernels, block(stream, caption, modulation, grid)))
            yield project(stream.tokens) * scale

    def check_base(self, base: TransformerConfig) -> None:
        """Raise InputError unless this ControlNet belongs to a transformer of that size."""
        own = self.config
        if own.hidden_size != base.hidden_size:
            raise InputError(
                f"this ControlNet is for SANA models {own.hidden_size} wide, the model is {base.hidden_size} wide "
                "(0.6B models are 1152 wide, 1.6B models 2240): choose the ControlNet that was made for the model"
            )
        if own.depth >= base.depth:
            raise InputError(
                f"this ControlNet of {own.depth} blocks needs a model of more blocks than that, this one has "
                f"{base.depth}"
            )

    def _begin_behind(self, control: Tensor, base: BaseState) -> tuple[Tensor, Caption, Tensor]:
        """Behind the transformer's block 0 (upstream). The control latent gets no positions."""
        embed = self.patch_embed or base.patch_embed
        return base.tokens + self.input_block(Grid.tokens(embed.proj(control))), base.caption, base.modulation

    def _begin_beside(self, control: Tensor, base: BaseState) -> tuple[Tensor, Caption, Tensor]:
        """Beside the transformer's block 0 (diffusers)."""
        embed = self.patch_embed or base.patch_embed
        x = embed(base.latent) + self.input_block(embed(control))
        if self.time_embed is None:
            return x, base.caption, base.modulation
        modulation, _ = self.time_embed(base.timestep, None, x.dtype)
        return x, base.caption.projected_by(self), modulation

    def project_caption(self, states: Tensor) -> Tensor:
        """Text states (B, L, caption channels) -> tokens (B, L, C), by embedders of its own."""
        assert self.caption_norm is not None and self.caption_projection is not None
        return self.caption_norm(self.caption_projection(states))


def control_residuals(control: Sequence[ControlBranch], base: BaseState) -> Iterator[Tensor | None]:
    """The residuals of several ControlNets together, for the outputs of blocks 0, 1, 2 ..."""
    streams = [branch.network.residuals(branch.latent, base, branch.scale) for branch in control if branch.scale != 0]
    for residuals in zip_longest(*streams):
        given = [residual for residual in residuals if residual is not None]
        yield sum(given[1:], given[0]) if given else None


def _matching(control: Tensor, latent: Tensor) -> Tensor:
    """The control latent in the batch, on the device and in the type of the transformer's latent. Raises InputError."""
    fits = control.ndim == 4 and control.shape[1:] == latent.shape[1:] and len(control) > 0
    repeats, rest = divmod(len(latent), len(control)) if fits else (0, 0)
    if not fits or rest:
        raise InputError(
            f"a control latent of shape {tuple(control.shape)} does not fit latents of shape {tuple(latent.shape)}: "
            "encode the control picture with SANA's autoencoder, at the size of the picture to make"
        )
    return control.to(latent).repeat(repeats, 1, 1, 1)
