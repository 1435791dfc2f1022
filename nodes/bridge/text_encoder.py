"""Gemma-2 as ComfyUI's CLIP, with SANA's contract: last hidden state after the final norm, soft cap, instruction, BOS +
last 299.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import comfy.model_management
import comfy.sd
import comfy.sd1_clip
import folder_paths
import torch
from comfy.supported_models_base import ClipTarget
from comfy.text_encoders import llama
from comfy.text_encoders.hunyuan_video import llama_detect
from torch import Tensor

from ...sana_core.checkpoint.files import read_checkpoint
from ...sana_core.checkpoint.quantised import quantisation
from ...sana_core.config import TextConfig
from ...sana_core.errors import CheckpointError
from ...sana_core.text.detect import SPIECE_KEY
from ...sana_core.text.instruction import PAD_ID, PromptTokens, prompt_tokens
from ...sana_core.text.load import load_text_encoder as check_text_encoder
from ...sana_core.text.tokenizer import tokenizer_from_bytes

NAME = "gemma2_2b"  # the host's name of this text encoder, in its token lists and weight keys
# uint8 JSON beside the tokenizer in checkpoints that ComfyUI saves, for a Gemma-2 of another size than 2B
CONFIG_KEY = "gemma_config"
PADDING = -1  # in token lists; a written-out <pad> is a token like any other
AUTO = "auto"  # instruction of a plain CLIPTextEncode: the default one, but none before an empty prompt


@dataclass
class Gemma2Config(llama.Gemma2_2B_Config):
    """The host's configuration with what it holds constant or does not know."""

    head_dim: int = 256
    query_pre_attn_scalar: int = 256
    attn_logit_softcapping: float = 50.0


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
        super().__init__(
            device=device,
            layer="last",
            textmodel_json_config={},
            dtype=dtype,
            special_tokens={"start": 2, "pad": PADDING},
            layer_norm_hidden_state=False,
            enable_attention_masks=True,
            model_class=Gemma2,
            model_options=model_options or {},
        )

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
        parts = []
        for section in token_weight_pairs:
            states = self.encode([[pair[0] for pair in section]])[0]
            parts.append(states[:, [index for index, pair in enumerate(section) if pair[1] != 0.0]])
        states = torch.cat(parts, dim=1).to(comfy.model_management.intermediate_device())
        return states, None, {"attention_mask": torch.ones(states.shape[:2], dtype=torch.long, device=states.device)}


class SanaTextModel(comfy.sd1_clip.SD1ClipModel):
    """`SanaGemma` under the key prefix that the host uses."""

    def __init__(self, device="cpu", dtype=None, model_options: dict[str, Any] | None = None) -> None:
        super().__init__(device=device, dtype=dtype, name=NAME, clip_model=SanaGemma, model_options=model_options or {})


class SanaTokenizer:
    """The host's tokenizer interface over sana_core's prompt handling. Prompt weights such as (word:1.2) are prose to a
    language model.
    """

    def __init__(self, embedding_directory=None, tokenizer_data: dict[str, Tensor] | None = None) -> None:
        self.tensors = {
            key: (tokenizer_data or {})[key] for key in (SPIECE_KEY, CONFIG_KEY) if key in (tokenizer_data or {})
        }
        if SPIECE_KEY not in self.tensors:
            raise CheckpointError(
                f"this checkpoint has a Gemma-2 without tokenizer (no {SPIECE_KEY}): use gemma_2_2b_fp16.safetensors"
            )
        self.pieces = tokenizer_from_bytes(self.tensors[SPIECE_KEY].numpy().tobytes(), SPIECE_KEY)

    def prompt(self, text: str, instruction: str | None = AUTO, kept_length: int | None = None) -> PromptTokens:
        """instruction: None, "default", "diffusers", an own text, or AUTO.  kept_length: cut or padded to so many
        tokens.
        """
        chosen = ("default" if text.strip() else None) if instruction == AUTO else instruction
        return prompt_tokens(self.pieces, text, chosen, kept_length=kept_length)

    def tokenize_with_weights(
        self,
        text: str,
        return_word_ids: bool = False,
        instruction: str | None = AUTO,
        kept_length: int | None = None,
        **_: Any,
    ) -> dict[str, list]:
        tokens = self.prompt(text, instruction, kept_length)
        kept, read = set(tokens.kept), len(tokens.ids) - tokens.num_padding
        ids = tokens.ids[:read] + [PADDING] * tokens.num_padding
        pairs = [(token, float(index in kept)) for index, token in enumerate(ids)]
        return {NAME: [[(*pair, index) for index, pair in enumerate(pairs)] if return_word_ids else pairs]}

    def untokenize(self, token_weight_pair: list) -> list:
        return [(pair, self.pieces.processor.id_to_piece(max(pair[0], PAD_ID))) for pair in token_weight_pair]

    def decode(self, token_ids: list[int], skip_special_tokens: bool = True) -> str:
        return self.pieces.decode(token_ids)

    def state_dict(self) -> dict[str, Tensor]:
        return self.tensors


def load_text_encoder(path: str) -> comfy.sd.CLIP:
    """Gemma-2 with its tokenizer from one file, as the host's CLIP. It is checked before a tensor is read. Raises
    CheckpointError.
    """
    header = read_checkpoint(path, "meta")
    quantised = quantisation(header.tensors, header.metadata)  # the host knows these; only Gemma-2-2B exists so
    config = TextConfig() if quantised else check_text_encoder(path, device="meta").config
    if SPIECE_KEY not in header.tensors:
        raise CheckpointError(
            f"{path} is a Gemma-2 without tokenizer: use a file that has it inside under the key {SPIECE_KEY}, "
            "such as gemma_2_2b_fp16.safetensors"
        )
    options = {f"{NAME}_class": SanaGemma, f"{NAME}_model_config": asdict(config)}
    clip = comfy.sd.load_clip([path], folder_paths.get_folder_paths("embeddings"), comfy.sd.CLIPType.LUMINA2, options)
    clip.tokenizer = SanaTokenizer(tokenizer_data={**clip.tokenizer.state_dict(), **_config_tensor(config)})
    return clip


def clip_target(state_dict: dict[str, Tensor], prefix: str) -> ClipTarget:
    """The text encoder of an all-in-one checkpoint, for the host's checkpoint loader. prefix: of its keys."""
    stated = state_dict.get(prefix + CONFIG_KEY)
    config = TextConfig() if stated is None else TextConfig(**json.loads(stated.numpy().tobytes()))
    found = llama_detect(state_dict, f"{prefix}{NAME}.transformer.")

    class SizedTextModel(SanaTextModel):
        def __init__(self, device="cpu", dtype=None, model_options: dict[str, Any] | None = None) -> None:
            options = {**(model_options or {}), f"{NAME}_model_config": asdict(config)}
            if "llama_quantization_metadata" in found:
                options["quantization_metadata"] = found["llama_quantization_metadata"]
            super().__init__(device, found.get("dtype_llama", dtype), options)

    return ClipTarget(SanaTokenizer, SizedTextModel)


def _config_tensor(config: TextConfig) -> dict[str, Tensor]:
    if config == TextConfig():
        return {}
    return {CONFIG_KEY: torch.tensor(list(json.dumps(asdict(config)).encode()), dtype=torch.uint8)}
