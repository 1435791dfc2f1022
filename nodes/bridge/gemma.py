"""Gemma-2 with the host's layers, as SANA reads it: last hidden state after the final norm, soft-capped attention."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.ops
import comfy.sd1_clip
import torch
from comfy.text_encoders import llama
from torch import Tensor

from ...sana_core.text.instruction import PAD_ID
from . import progress
from .gguf import gguf_operations
from .quantised import quantised_operations
from .tokenizer import NAME, PADDING

HAS_GGUF = "sana_gguf"
"""Key in the host's options for a text encoder: some layers are in a GGUF format."""


@dataclass
class Gemma2Config(llama.Gemma2_2B_Config):
    """The host's configuration with what it holds constant or does not know."""

    head_dim: int = 256
    query_pre_attn_scalar: int = 256
    attn_logit_softcapping: float = 50.0
    final_logit_softcapping: float = 30.0


class SoftCapAttention(llama.Attention):
    """Attention with Gemma-2's soft cap: logits are squeezed into (-50, 50) by tanh before the mask."""

    def __init__(self, config: Gemma2Config, device=None, dtype=None, ops: Any = None) -> None:
        super().__init__(config, device=device, dtype=dtype, ops=ops)
        self.scale = config.query_pre_attn_scalar**-0.5
        self.softcap = config.attn_logit_softcapping

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Any:
        return super().forward(hidden_states, **{**kwargs, "optimized_attention": self.attend})

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, heads: int, mask: Tensor | None = None, **_: Any
    ) -> Tensor:
        """query: (B, heads, T, D); key, value: (B, kv heads, L, D); mask added to the logits -> (B, T, heads * D)."""
        key, value = (x.repeat_interleave(heads // x.shape[1], dim=1) for x in (key, value))
        logits = self.softcap * torch.tanh(query @ key.transpose(-2, -1) * (self.scale / self.softcap))
        weights = (logits if mask is None else logits + mask).softmax(dim=-1)
        return (weights @ value).transpose(1, 2).flatten(2)


class Gemma2(llama.BaseLlama, llama.BaseGenerate, torch.nn.Module):
    """The host's Gemma-2 with soft-capped attention."""

    def __init__(self, config_dict: dict[str, Any], dtype, device, operations: Any) -> None:
        super().__init__()
        config = Gemma2Config(**config_dict)
        self.num_layers = config.num_hidden_layers
        self.model = llama.Llama2_(config, device=device, dtype=dtype, ops=operations)
        for layer in self.model.layers:
            layer.self_attn = SoftCapAttention(config, device=device, dtype=dtype, ops=operations)
        for module in self.model.modules():
            if isinstance(module, llama.RMSNorm):
                # the host adds 1 to these weights in the type that it holds them in, and float16 rounds that by 5e-4
                module.float()
        self.dtype = dtype


class SanaGemma(comfy.sd1_clip.SDClipModel):
    """Token lists -> text states (1, L, width) and their mask. A token of weight 0 is read by Gemma, its state is left
    out; to PADDING no token attends. The host computes in float32 whatever type it holds the weights in, so that
    nothing overflows float16.
    """

    def __init__(self, device="cpu", dtype=None, model_options: dict[str, Any] | None = None) -> None:
        options = {**(model_options or {})}
        if options.get(HAS_GGUF) or options.get("quantization_metadata") is not None:
            base = quantised_operations(comfy.ops.mixed_precision_ops({}, dtype, full_precision_mm=True))
            options["custom_operations"] = gguf_operations(base) if options.get(HAS_GGUF) else base
        super().__init__(
            device=device,
            layer="last",
            textmodel_json_config={},
            dtype=dtype,
            special_tokens={"start": 2, "pad": PADDING},
            layer_norm_hidden_state=False,
            enable_attention_masks=True,
            model_class=Gemma2,
            model_options=options,
        )

    def set_clip_options(self, options: dict[str, Any]) -> None:
        """Layer -1, the default of CLIP Set Last Layer, is the last one as SANA reads it, with the final norm. Those
        before it come without, as in the host's other language models.
        """
        if options.get("layer") == -1:
            self.layer_idx, options = None, {**options, "layer": None}
        super().set_clip_options(options)

    def process_tokens(self, tokens: list[list[int]], device: torch.device) -> tuple[Tensor, Tensor, list[int], list]:
        """Embeddings (B, T, width), mask (B, T), and the rest of what the host makes of tokens. PADDING is a token
        without attention.
        """
        rows = [[PAD_ID if token == PADDING else token for token in row] for row in tokens]
        embeds, mask, _, infos = super().process_tokens(rows, device)
        mask = mask * torch.tensor([[token != PADDING for token in row] for row in tokens], device=mask.device)
        return embeds, mask, mask.sum(dim=1).tolist(), infos

    def encode_token_weights(
        self, token_weight_pairs: list[list[tuple[int, float]]]
    ) -> tuple[Tensor, None, dict[str, Tensor]]:
        count, start = sum(map(len, token_weight_pairs)), time.monotonic()
        progress.show(f"encoding {count} tokens")
        parts = []
        for section in token_weight_pairs:
            states = self.encode([[pair[0] for pair in section]])[0]
            parts.append(states[:, [index for index, pair in enumerate(section) if pair[1] != 0.0]])
        states = torch.cat(parts, dim=1).to(comfy.model_management.intermediate_device())
        progress.show(f"{count} tokens encoded in {time.monotonic() - start:.1f} s, {progress.memory()}")
        return states, None, {"attention_mask": torch.ones(states.shape[:2], dtype=torch.long, device=states.device)}


class SanaTextModel(comfy.sd1_clip.SD1ClipModel):
    """`SanaGemma` under the key prefix that the host uses."""

    def __init__(self, device="cpu", dtype=None, model_options: dict[str, Any] | None = None) -> None:
        super().__init__(device=device, dtype=dtype, name=NAME, clip_model=SanaGemma, model_options=model_options or {})
