"""The Linear DiT (SANA, arXiv:2410.10629): SANA 1.0, 1.5 and Sprint, 512 to 4096 px."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..config import TransformerConfig
from ..errors import InputError
from .attention import Attention, Context, SelfAttention, attend_to_itself, softmax_attention
from .block import SanaBlock, modulated_norm
from .controlnet import BaseState, ControlBranch, control_residuals
from .embeddings import CaptionProjection, GuidedTimeEmbed, PatchEmbed, TimeEmbed


class SanaTransformer(nn.Module):
    """Predicts the flow velocity, noise - x0.

    `ops` supplies the layer classes (Linear, Conv2d, RMSNorm), `attention` the softmax attention: a host passes its
    own.
    """

    def __init__(
        self,
        config: TransformerConfig,
        *,
        ops: Any = torch.nn,
        attention: Attention = softmax_attention,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        factory = {"ops": ops, "device": device, "dtype": dtype}
        self.config = config
        self.patch_embed = PatchEmbed(config, **factory)
        self.time_embed = (GuidedTimeEmbed if config.guidance_embed else TimeEmbed)(config, **factory)
        self.caption_projection = CaptionProjection(config, **factory)
        self.caption_norm = ops.RMSNorm(config.hidden_size, eps=1e-5, device=device, dtype=dtype)
        self.transformer_blocks = nn.ModuleList(
            SanaBlock(config, attention=attention, **factory) for _ in range(config.depth)
        )
        self.scale_shift_table = nn.Parameter(torch.zeros(2, config.hidden_size, device=device, dtype=dtype))
        self.proj_out = ops.Linear(config.hidden_size, config.latent_channels, device=device, dtype=dtype)

    def forward(
        self,
        latent: Tensor,
        timestep: Tensor,
        context: Tensor | Context,
        context_mask: Tensor | None = None,
        *,
        guidance: Tensor | None = None,
        control: Sequence[ControlBranch] = (),
        identity_attention: Collection[int] = (),
    ) -> Tensor:
        """latent: (B, 32, h, w); timestep: (B,) in 0..1000, fractions allowed; context: text states (B, L, caption
        channels) with context_mask (B, L) of bool, or what `prepare_context` made of them; guidance: (B,), the plain
        scale, Sprint only. control: ControlNets, whose effects add up. identity_attention: blocks in which every
        picture token attends to itself alone, for perturbed-attention guidance.

        Returns the velocity (B, 32, h, w). Raises InputError for latents, text states or a ControlNet of another width.
        """
        self._check(latent)
        grid = (latent.shape[-2], latent.shape[-1])
        if not isinstance(context, Context):
            context = self.embed_context(context, context_mask)
        x = self.patch_embed(latent)
        modulation, embedded = self.time_embed(timestep, guidance, latent.dtype)
        residuals: Iterator[Tensor | None] = iter(())
        for index in range(self.config.depth):
            x = self.run_block(
                index, x, context, modulation, grid, attend_to_itself if index in identity_attention else None
            )
            if control and index == 0:
                residuals = control_residuals(control, self._base_state(latent, timestep, context, modulation, x))
            residual = next(residuals, None)
            x = x if residual is None else x + residual
        shift, scale = (self.scale_shift_table.to(x) + embedded[:, None]).chunk(2, dim=1)
        x = self.proj_out(modulated_norm(x, shift, scale))
        return x.transpose(1, 2).unflatten(2, grid)

    def run_block(
        self,
        index: int,
        x: Tensor,
        context: Context,
        modulation: Tensor,
        grid: tuple[int, int],
        attend: SelfAttention | None = None,
    ) -> Tensor:
        """Block `index` on tokens x (B, h*w, C), with another self-attention if given. A host overrides this to patch
        blocks.
        """
        block = self.blocks[index]
        keys_values = context.keys_values[index] if context.keys_values else block.attn2.project_context(context.tokens)
        return block(x, keys_values, context, modulation, grid, attend)

    @property
    def blocks(self) -> Sequence[SanaBlock]:
        return cast(Sequence[SanaBlock], self.transformer_blocks)

    def embed_context(self, context: Tensor, context_mask: Tensor | None = None) -> Context:
        """Text states (B, L, caption channels), mask (B, L) of bool (True: a token to attend to) -> what the blocks
        attend to.
        """
        if context.shape[-1] != self.config.caption_channels:
            raise InputError(
                f"the text states are {context.shape[-1]} wide, this SANA model takes {self.config.caption_channels}: "
                "encode the prompt with the text encoder that belongs to the model"
            )
        tokens = self.caption_norm(self.caption_projection(context))
        return Context(tokens, attention_bias(context_mask, context.dtype), states=context)

    def prepare_context(self, context: Tensor, context_mask: Tensor | None = None) -> Context:
        """`embed_context` with every block's keys and values computed ahead, for the many steps of one prompt."""
        embedded = self.embed_context(context, context_mask)
        return replace(
            embedded, keys_values=tuple(block.attn2.project_context(embedded.tokens) for block in self.blocks)
        )

    def _base_state(
        self, latent: Tensor, timestep: Tensor, context: Context, modulation: Tensor, tokens: Tensor
    ) -> BaseState:
        given = {"latent": latent, "timestep": timestep, "context": context, "modulation": modulation, "tokens": tokens}
        return BaseState(config=self.config, patch_embed=self.patch_embed, **given)

    def _check(self, latent: Tensor) -> None:
        channels = self.config.latent_channels
        if latent.ndim != 4 or latent.shape[1] != channels:
            found = ", ".join(map(str, latent.shape[1:]))
            raise InputError(
                f"SANA takes latents (B, {channels}, h, w), got (B, {found}): these latents come from another model's "
                "VAE"
            )


def attention_bias(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """(B, L) of bool, True for tokens that count -> (B, 1, 1, L) to add to attention logits, or None."""
    if mask is None:
        return None
    bias = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask.bool(), torch.finfo(dtype).min)
    return bias[:, None, None, :]
