"""Tell what an unwanted state dict is, for the message that refuses it."""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import shortened

# What it is, and the ends of keys that show it; the first match wins.
NETWORK_KINDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("a SANA ControlNet", ("controlnet_blocks.0.weight", "input_block.weight")),
    ("a SANA ControlNet", ("controlnet.0.before_proj.weight",)),
    ("a Nunchaku-quantised SANA transformer", ("ff.inverted_conv.qweight",)),
    ("a SANA-Video transformer", ("ff.conv_temp.weight",)),
    ("a SANA-Video transformer", ("mlp.t_conv.weight",)),
    ("a SANA transformer", ("transformer_blocks.0.ff.conv_inverted.weight",)),
    ("a SANA transformer", ("blocks.0.mlp.inverted_conv.conv.weight",)),
    ("a DC-AE autoencoder", ("decoder.project_in.main.conv.weight",)),
    ("a DC-AE autoencoder", ("decoder.conv_in.weight", "decoder.up_blocks.2.0.conv.weight")),
    ("a LoRA", (".lora_A.weight",)),
    ("a LoRA", (".lora_down.weight",)),
    ("a LoRA", (".hada_w1_a",)),
    ("a LoRA", (".lokr_w2",)),
    ("a LoRA", (".lokr_w2_a",)),
    ("a Gemma-3 text encoder", ("layers.0.post_feedforward_layernorm.weight", "layers.0.self_attn.q_norm.weight")),
    ("a Gemma-2 text encoder", ("layers.0.post_feedforward_layernorm.weight",)),
    ("a Llama-style language model", ("layers.0.self_attn.q_proj.weight", "layers.0.mlp.gate_proj.weight")),
    ("a T5 text encoder", ("encoder.block.0.layer.0.SelfAttention.q.weight",)),
    ("a CLIP text encoder", ("text_model.encoder.layers.0.self_attn.q_proj.weight",)),
    ("a Flux model", ("double_blocks.0.img_attn.qkv.weight",)),
    ("a Stable Diffusion 3 model", ("joint_blocks.0.x_block.attn.qkv.weight",)),
    ("a Stable Diffusion or SDXL model", ("input_blocks.0.0.weight",)),
    ("a Stable Diffusion or SDXL model", ("down_blocks.0.resnets.0.time_emb_proj.weight",)),
    ("a Lumina 2 model", ("cap_embedder.0.weight",)),
    ("a PixArt model", ("y_embedder.y_proj.fc1.weight", "blocks.0.mlp.fc1.weight")),
    ("a diffusers transformer of another family", ("transformer_blocks.0.attn1.to_q.weight",)),
    ("an autoencoder of another family", ("decoder.conv_in.weight",)),
)

# What a LoRA was trained on, and parts of module names, with "_" for ".", of which one shows it; the first match wins.
LORA_KINDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("a Flux LoRA", ("double_blocks_", "single_transformer_blocks_")),
    ("a Stable Diffusion 3 LoRA", ("joint_blocks_",)),
    (
        "a Stable Diffusion or SDXL LoRA",
        ("down_blocks_", "up_blocks_", "input_blocks_", "output_blocks_", "mid_block_", "middle_block_"),
    ),
    ("a LoRA of a CLIP text encoder", ("text_model_encoder_layers_",)),
    ("a Qwen-Image LoRA", ("_img_mlp_", "_attn_add_k_proj")),
    ("a Wan LoRA", ("_self_attn_o", "_cross_attn_o")),
    ("a LoRA of a language model", ("layers_0_self_attn_",)),
)


def describe(keys: Iterable[str]) -> str:
    """What a state dict with these keys is, in words."""
    keys = list(keys)
    for kind, ends in NETWORK_KINDS:
        if all(any(key.endswith(end) for key in keys) for end in ends):
            return kind
    return f"a model of an unknown kind (one of its keys is {shortened(keys[0])})" if keys else "an empty file"


def describe_lora(names: Iterable[str]) -> str:
    """What a LoRA for modules of these names was trained on, in words."""
    flat = [name.replace(".", "_") for name in names]
    kinds = (kind for kind, parts in LORA_KINDS if any(part in name for part in parts for name in flat))
    return next(kinds, "a LoRA of an unknown model")
