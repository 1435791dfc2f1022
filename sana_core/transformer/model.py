"""The Linear DiT (SANA, arXiv:2410.10629): SANA 1.0, 1.5 and Sprint, 512 to 4096 px."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..config import TransformerConfig
from ..errors import InputError
from .attention import Attention, Context, softmax_attention
from .block import SanaBlock, modulated_norm
from .embeddings import CaptionProjection, GuidedTimeEmbed, PatchEmbed, TimeEmbed


class SanaTransformer(nn.Module):
    """Predicts the flow velocity, noise - x0.

    `ops` supplies the layer classes (Linear, Conv2d, RMSNorm), `attention` the softmax attention: a host passes its own.
    """

    def __init__(
        self, config: TransformerConfig, *, ops: Any = torch.nn, attention: Attention = softmax_attention, device=None, dtype=None
    ) -> None:
        super().__init__()
        factory = {"ops": ops, "device": device, "dtype": dtype}
        self.config = config
        self.patch_embed = PatchEmbed(config, **factory)
        self.time_embed = (GuidedTimeEmbed if config.guidance_embed else TimeEmbed)(config, **factory)
        self.caption_projection = CaptionProjection(config, **factory)
        self.caption_norm = ops.RMSNorm(config.hidden_size, eps=1e-5, device=device, dtype=dtype)
        self.transformer_blocks = nn.ModuleList(SanaBlock(config, attention=attention, **factory) for _ in range(config.depth))
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
    ) -> Tensor:
        """latent: (B, 32, h, w); timestep: (B,) in 0..1000, fractions allowed; context: text states (B, L, caption channels) with
        context_mask (B, L) of bool, or what `prepare_context` made of them; guidance: (B,), the plain scale, Sprint only.

        Returns the velocity (B, 32, h, w). Raises InputError for latents or text states of another width.
        """
        self._check(latent)
        grid = (latent.shape[-2], latent.shape[-1])
        if not isinstance(context, Context):
            context = self.embed_context(context, context_mask)
        x = self.patch_embed(latent)
        modulation, embedded = self.time_embed(timestep, guidance, latent.dtype)
        for index in range(self.config.depth):
            x = self.run_block(index, x, context, modulation, grid)
        shift, scale = (self.scale_shift_table.to(x) + embedded[:, None]).chunk(2, dim=1)
        x = self.proj_out(modulated_norm(x, shift, scale))
        return x.transpose(1, 2).unflatten(2, grid)

    def run_block(self, index: int, x: Tensor, context: Context, modulation: Tensor, grid: tuple[int, int]) -> Tensor:
        """Block `index` on tokens x (B, h*w, C). A host overrides this to patch blocks."""
        block = self.blocks[index]
        keys_values = context.keys_values[index] if context.keys_values else block.attn2.project_context(context.tokens)
        return block(x, keys_values, context, modulation, grid)

    @property
    def blocks(self) -> Sequence[SanaBlock]:
        return cast(Sequence[SanaBlock], self.transformer_blocks)

    def embed_context(self, context: Tensor, context_mask: Tensor | None = None) -> Context:
        """Text states (B, L, caption channels), mask (B, L) of bool (True: a token to attend to) -> what the blocks attend to."""
        if context.shape[-1] != self.config.caption_channels:
            raise InputError(
                f"the text states are {context.shape[-1]} wide, this SANA model takes {self.config.caption_channels}: "
                "encode the prompt with the text encoder that belongs to the model"
            )
        return Context(self.caption_norm(self.caption_projection(context)), attention_bias(context_mask, context.dtype))

    def prepare_context(self, context: Tensor, context_mask: Tensor | None = None) -> Context:
        """`embed_context` with every block's keys and values computed ahead, for the many steps of one prompt."""
        embedded = self.embed_context(context, context_mask)
        return replace(embedded, keys_values=tuple(block.attn2.project_context(embedded.tokens) for block in self.blocks))

    def _check(self, latent: Tensor) -> None:
        channels = self.config.latent_channels
        if latent.ndim != 4 or latent.shape[1] != channels:
            found = tuple(latent.shape)
            raise InputError(f"SANA takes latents (B, {channels}, h, w), got {found}: these latents come from another model's VAE")


def attention_bias(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """(B, L) of bool, True for tokens that count -> (B, 1, 1, L) to add to attention logits, or None."""
    if mask is None:
        return None
    bias = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask.bool(), torch.finfo(dtype).min)
    return bias[:, None, None, :]
