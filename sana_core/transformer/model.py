"""The Linear DiT (SANA, arXiv:2410.10629): SANA 1.0, 1.5 and Sprint, 512 to 4096 px."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from itertools import chain, repeat
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..config import TransformerConfig
from ..errors import InputError, safe_line
from ..geometry import Grid
from ..kernels.linear_attention import WITHOUT_AUTOCAST
from ..kit import Kit
from .block import SanaBlock, SelfAttention, Stream, add, add_and_norm, attend_to_itself
from .caption import Caption
from .controlnet import BaseState, ControlBranch, control_residuals
from .embeddings import CaptionProjection, GuidedTimeEmbed, PatchEmbed, TimeEmbed

log = logging.getLogger("sana")


class SanaTransformer(nn.Module):
    """Predicts the flow velocity, noise - x0."""

    def __init__(self, config: TransformerConfig, kit: Kit | None = None) -> None:
        super().__init__()
        kit = kit or Kit()
        self.config = config
        self.patch_embed = PatchEmbed(config, kit)
        self.time_embed = (GuidedTimeEmbed if config.guidance_embed else TimeEmbed)(config, kit)
        self.caption_projection = CaptionProjection(config, kit)
        self.caption_norm = kit.rms_norm(config.hidden_size, eps=1e-5)
        self.transformer_blocks = nn.ModuleList(SanaBlock(config, kit) for _ in range(config.depth))
        self.scale_shift_table = kit.zeros(2, config.hidden_size)
        self.proj_out = kit.linear(config.hidden_size, config.latent_channels)
        self.kernels = kit.kernels

    def forward(
        self,
        latent: Tensor,
        timestep: Tensor,
        context: Tensor | Caption,
        context_mask: Tensor | None = None,
        *,
        guidance: Tensor | None = None,
        control: Sequence[ControlBranch] = (),
        identity_attention: Collection[int] = (),
    ) -> Tensor:
        """One prediction.

        latent: (B, 32, h, w).  timestep: (B,) in 0..1000, fractions allowed.  context: text states (P, L, caption
        channels) with context_mask (P, L) of bool, or the `caption` of them: P prompts, each for B / P pictures in a
        row.  guidance: (B,), the plain scale, Sprint
        only.  control: ControlNets, whose effects add up.  identity_attention: blocks in which every picture token
        attends to itself alone, for perturbed-attention guidance.

        Returns the velocity (B, 32, h, w).  Raises InputError for latents, text states or ControlNets that do not fit.
        """
        self._check(latent)
        grid = Grid.of(latent)
        caption = context if isinstance(context, Caption) else self.caption(context, context_mask)
        if len(latent) % len(caption.tokens):
            raise InputError(
                f"{len(caption.tokens)} prompts for {len(latent)} latents: give one for each, or for several"
            )
        x = Stream(in_training_type(self.patch_embed(latent)))
        modulation, embedded = self.time_embed(timestep, guidance, latent.dtype)
        residuals: Iterator[Tensor | None] = repeat(None, self.config.depth)
        for index in range(self.config.depth):
            attend = attend_to_itself if index in identity_attention else None
            x = self.run_block(index, x, caption, modulation, grid, attend)
            if control and index == 0:
                x = Stream(add(self.kernels, x))
                base = BaseState(
                    config=self.config,
                    patch_embed=self.patch_embed,
                    latent=latent,
                    timestep=timestep,
                    caption=caption,
                    modulation=modulation,
                    tokens=x.tokens,
                )
                residuals = chain(control_residuals(control, base), repeat(None, self.config.depth))
            residual = next(residuals)
            x = x if residual is None else Stream(add(self.kernels, x), residual)
        shift, scale = (self.scale_shift_table.to(x.tokens) + embedded[:, None]).chunk(2, dim=1)
        _, normed = add_and_norm(self.kernels, x, shift, scale)
        return grid.maps(self.proj_out(normed))

    def run_block(
        self,
        index: int,
        x: Stream,
        caption: Caption,
        modulation: Tensor,
        grid: Grid,
        attend: SelfAttention | None = None,
    ) -> Stream:
        """Block `index` on tokens x (B, h*w, C), with another self-attention if given. A host overrides it."""
        return self.blocks[index](x, caption, modulation, grid, attend)

    def join_projections(self) -> None:
        """One matrix product for q, k and v of self-attention, see `LinearAttention.join_projections`."""
        for block in self.blocks:
            block.attn1.join_projections()

    def compile_blocks(self, **options: Any) -> None:
        """Compile the blocks with torch.compile, all by one graph, for any size and length.  options: of it.

        Where no code can be compiled (the CPU needs a C++ compiler, a GPU needs Triton) the blocks run as they are, and
        the log says so once.
        """
        from torch._dynamo.exc import BackendCompilerFailed  # takes seconds to import

        compiled = torch.compile(SanaBlock.layers, **{"dynamic": True, "fullgraph": True, **options})

        def layers(*args: Any) -> Stream:
            try:
                return compiled(*args)
            except BackendCompilerFailed as error:
                log.warning("the blocks are not compiled: %s", safe_line(str(error.inner_exception)))
                for block in self.blocks:
                    block.compiled = None
                return SanaBlock.layers(*args)

        for block in self.blocks:
            block.compiled = layers

    @property
    def blocks(self) -> Sequence[SanaBlock]:
        return cast(Sequence[SanaBlock], self.transformer_blocks)

    def caption(
        self, states: Tensor, mask: Tensor | None = None, *, options: Any = None, remember: bool = False
    ) -> Caption:
        """A prompt as the blocks attend to it; with remember=True for the many steps of one prompt.

        states: text states (B, L, caption channels).  mask: (B, L) of bool, True for tokens to attend to; None: all.
        options: what a host passes on to its attention.  Raises InputError for text states of another width.
        """
        if states.shape[-1] != self.config.caption_channels:
            raise InputError(
                f"the text states are {states.shape[-1]} wide, this SANA model takes {self.config.caption_channels}: "
                "encode the prompt with the text encoder that belongs to the model"
            )
        return Caption(self.project_caption(states), states=states, mask=mask, options=options, remember=remember)

    def project_caption(self, states: Tensor) -> Tensor:
        """Text states (B, L, caption channels) -> tokens (B, L, C)."""
        return self.caption_norm(self.caption_projection(states))

    def _check(self, latent: Tensor) -> None:
        channels = self.config.latent_channels
        if latent.ndim != 4 or latent.shape[1] != channels:
            found = ", ".join(map(str, latent.shape[1:]))
            raise InputError(
                f"SANA takes latents (B, {channels}, h, w), got (B, {found}): they come from another model's VAE"
            )


def in_training_type(tokens: Tensor) -> Tensor:
    """Under autocast the tokens between the layers are float32, as in the training of the releases."""
    kind = tokens.device.type
    autocast = kind not in WITHOUT_AUTOCAST and torch.is_autocast_enabled(kind)
    return tokens.float() if autocast else tokens
