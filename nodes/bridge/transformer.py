"""The SANA transformer with ComfyUI's layers, attention, wrappers and block patches."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, NamedTuple

import torch
from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers
from torch import Tensor

from ...sana_core.config import LINEAR_HEAD_DIM, TransformerConfig
from ...sana_core.errors import InputError
from ...sana_core.geometry import Grid
from ...sana_core.presets import pag_layer
from ...sana_core.transformer.block import SelfAttention, Stream, add
from ...sana_core.transformer.caption import Caption
from ...sana_core.transformer.controlnet import ControlBranch
from ...sana_core.transformer.model import SanaTransformer
from ...sana_core.transformer.replay import obstacle
from .kit import host_kit
from .prompts import JOINED, Joined

EXACT_TIMESTEPS = "sana_exact_timesteps"
"""Key in transformer_options: the model sees fractions of timesteps, which Flow-Euler was released with; otherwise they
are cut.
"""
IDENTITY_ATTENTION = "sana_identity_attention"
"""Key in transformer_options: numbers of the blocks in which every picture token attends to itself alone."""
CONTROL = "sana"
"""Key of SANA's ControlNets, a tuple of `ControlBranch`, in what ControlNets hand to the model."""
WEIGHTS = "sana_weights"
"""Key in transformer_options: a `WeightsNow`."""


class WeightsNow(NamedTuple):
    """state: equal in two steps only if no node changed the weights between them.  stays: all weights are on the GPU
    for the whole run, with nothing to add at use.  foreign: code of other nodes runs before the model and may change
    what it is given.
    """

    state: Hashable
    stays: bool
    foreign: bool


def with_option(model_options: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """A copy of `model_options` with an entry in its transformer_options."""
    return {**model_options, "transformer_options": {**model_options.get("transformer_options", {}), key: value}}


def text_weights(network: SanaTransformer) -> Hashable:
    """Which weights make keys and values of a prompt: a change in place or by another tensor makes this differ."""
    layers = [network.caption_projection, network.caption_norm]
    layers += [layer for block in network.blocks for layer in (block.attn2.to_k, block.attn2.to_v, block.attn2.norm_k)]
    parameters = [parameter for layer in layers for parameter in layer.parameters()]
    return tuple((id(p), None if p.is_inference() else p._version) for p in parameters)


def branches(control: dict[str, Any] | None) -> tuple[ControlBranch, ...]:
    """SANA's ControlNets among what ControlNets hand to the model. Raises InputError for those of other models."""
    entries = dict(control or {})
    own = entries.pop(CONTROL, ())
    if any(residual is not None for residuals in entries.values() for residual in residuals):
        raise InputError(
            "a ControlNet of another kind of model is applied to this SANA model: choose one that was made for SANA"
        )
    return own


class ComfySana(SanaTransformer):
    """`SanaTransformer` called the way ComfyUI calls its diffusion models."""

    def __init__(
        self,
        *,
        config: TransformerConfig,
        image_model: str,
        dtype: torch.dtype | None = None,
        device=None,
        operations: Any,
    ) -> None:
        super().__init__(config, host_kit(operations, device, dtype))
        self.image_model = image_model
        self.in_channels = config.latent_channels  # some of the host's nodes read it
        self.dtype = dtype  # not read off a weight: under dynamic VRAM there may be none yet
        self.fast = "auto"

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        attention_mask: Tensor | None = None,
        guidance: Tensor | None = None,
        control: Any = None,
        transformer_options: dict[str, Any] | None = None,
        **_: Any,
    ) -> Tensor:
        """x: (B, 32, h, w); timesteps: (B,) in 0..1000; context: (B, L, caption channels); attention_mask: (B, L) of 0
        and 1.
        """
        options = {} if transformer_options is None else transformer_options
        wrappers = get_all_wrappers(WrappersMP.DIFFUSION_MODEL, options)
        executor = WrapperExecutor.new_class_executor(self._forward, self, wrappers)
        return executor.execute(x, timesteps, context, attention_mask, guidance, control, options)

    def _forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        attention_mask: Tensor | None,
        guidance: Tensor | None,
        control: Any,
        transformer_options: dict[str, Any],
    ) -> Tensor:
        transformer_options.update(total_blocks=self.config.depth, block_type="double")
        if not (self.config.guidance_embed or transformer_options.get(EXACT_TIMESTEPS)):
            timesteps = timesteps.trunc()  # as in training: the released code casts 1000 * sigma to an integer
        mask = None if attention_mask is None else attention_mask.bool()
        predict, caption = super().forward, None
        joined = self._joined(context, attention_mask, transformer_options)
        if joined is not None:
            caption = joined.caption(
                self, (transformer_options[WEIGHTS].state, text_weights(self)), transformer_options
            )
            if self._can_be_replayed(x.device, transformer_options):
                predict = joined.replay(predict, self)
            else:
                joined.forget_recording()
        if caption is None:
            caption = self.caption(context, mask, options=transformer_options)
        identity = transformer_options.get(IDENTITY_ATTENTION, ())
        return predict(x, timesteps, caption, guidance=guidance, control=branches(control), identity_attention=identity)

    def _joined(self, context: Tensor, mask: Tensor | None, options: dict[str, Any]) -> Joined | None:
        """What is known of these prompts from earlier steps, where they are sure to be the same."""
        joined, now = getattr(context, JOINED, None), options.get(WEIGHTS)
        if joined is None or now is None or mask is not joined.mask or torch.is_grad_enabled():
            return None
        return None if now.foreign and not joined.is_of(context, mask) else joined

    def _can_be_replayed(self, device: torch.device, options: dict[str, Any]) -> bool:
        """Does every step launch the same kernels on the same weights? Sprint has too few steps for a recording."""
        if self.fast == "off" or self.config.guidance_embed or obstacle(device) is not None:
            return False
        others = ("patches", "patches_replace", "optimized_attention_override", "callbacks")
        return not any(options.get(key) for key in others) and options[WEIGHTS].stays

    def run_block(
        self,
        index: int,
        x: Stream,
        caption: Caption,
        modulation: Tensor,
        grid: Grid,
        attend: SelfAttention | None = None,
    ) -> Stream:
        """Block `index`, or what another node put in its place.

        Other nodes replace a block by `patches_replace["dit"][("double_block", index)]`, and its self-attention by
        `patches_replace["attn1"]`.
        """
        options = caption.options
        options["block_index"] = index
        attend = attend or self._replaced_attention(index, options)
        replacement = options.get("patches_replace", {}).get("dit", {}).get(("double_block", index))
        if replacement is None:
            return super().run_block(index, x, caption, modulation, grid, attend)

        text = caption.tokens.clone()  # which the replacement may change in place

        def original(args: dict[str, Any]) -> dict[str, Any]:
            same = args["txt"] is text and torch.equal(text, caption.tokens)
            changed = caption if same else caption.with_tokens(args["txt"])
            image = super(ComfySana, self).run_block(index, Stream(args["img"]), changed, args["vec"], grid, attend)
            return {**args, "img": add(self.kernels, image)}

        args = {"img": add(self.kernels, x), "txt": text, "vec": modulation, "transformer_options": options}
        return Stream(replacement(args, {"original_block": original})["img"])

    def _replaced_attention(self, index: int, options: dict[str, Any]) -> SelfAttention | None:
        """Another node's function for the self-attention of block `index`: `replacement(query, key, value,
        extra_options)`.

        Nodes written for U-Nets, such as ComfyUI's Perturbed-Attention Guidance, name the middle block: here that is
        the block SANA's own PAG perturbs.
        """
        replacements = options.get("patches_replace", {}).get("attn1", {})
        names = [
            ("double_block", index),
            ("block", index),
            *([("middle", 0)] if index == pag_layer(self.config) else []),
        ]
        replacement = next((replacements[name] for name in names if name in replacements), None)
        if replacement is None:
            return None
        extra_options = {
            **options,
            "n_heads": self.config.num_heads,
            "dim_head": LINEAR_HEAD_DIM,
            "block": ("double_block", index),
        }
        return lambda query, key, value: replacement(query, key, value, extra_options)
