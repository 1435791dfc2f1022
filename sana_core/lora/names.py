"""What files call the modules of SANA's networks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable

from ..checkpoint.key_maps import GUIDED_TIME_EMBED_NVLABS, TIME_EMBED_NVLABS, TRANSFORMER_NVLABS, foreign_key

# Before dotted names: nothing, diffusers, ComfyUI, PEFT alone and inside diffusers. Before names with "_" for ".":
# kohya and newer OneTrainer, older OneTrainer, SimpleTuner.
DOTTED = (
    "",
    "transformer.",
    "diffusion_model.",
    "model.diffusion_model.",
    "base_model.model.",
    "transformer.base_model.model.",
)
FLAT = ("lora_unet_", "lora_transformer_", "lycoris_")
# The same for Gemma-2, whose names begin with "layers."; "model." is the language model's own.
TEXT_DOTTED = (
    "",
    "model.",
    "text_encoder.",
    "text_encoder.model.",
    "base_model.model.",
    "base_model.model.model.",
    "text_encoder.base_model.model.",
    "text_encoders.gemma2_2b.transformer.model.",
    "transformer.model.",
)
TEXT_FLAT = ("lora_te_", "lora_te1_", "lora_te_model_")
TEXT_ENCODER = (
    "lora_te",
    "text_encoder",
    "transformer.model.layers.",
    "base_model.model.layers.",
    "base_model.model.model.layers.",
    "model.layers.",
    "layers.",
    "bundle_emb.",
)
"""How keys of a text encoder begin."""


def module_names(keys: Iterable[str]) -> list[str]:
    """Modules with a weight, from the keys of a state dict."""
    return [key.removesuffix(".weight") for key in keys if key.endswith(".weight")]


def aliases(modules: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Every name that a file may have for these modules of a SANA transformer or a Gemma-2 -> the modules.

    Several modules share a name where the original network fuses them: its rows are theirs in order.
    """
    if not any(name.startswith("transformer_blocks.") for name in modules):
        return {
            alias: (name,)
            for name in modules
            for alias in _prefixed(name.removeprefix("model."), TEXT_DOTTED, TEXT_FLAT)
        }
    groups: dict[str, list[str]] = defaultdict(list)
    for name in modules:
        groups[name].append(name)
    for name in modules:
        original = original_name(name, guided="time_embed.timestep_embedder.linear_1" in modules)
        if original != name:
            groups[original].append(name)
            if original.endswith("_conv.conv"):  # files that leave out the wrapper around the convolution
                groups[original.removesuffix(".conv")].append(name)
    return {alias: tuple(group) for name, group in groups.items() for alias in _prefixed(name, DOTTED, FLAT)}


def original_name(module: str, *, guided: bool) -> str:
    """NVlabs' name of a transformer's module; guided: of SANA-Sprint."""
    key_map = TRANSFORMER_NVLABS + (GUIDED_TIME_EMBED_NVLABS if guided else TIME_EMBED_NVLABS)
    return foreign_key(f"{module}.weight", key_map).removesuffix(".weight")


def _prefixed(name: str, dotted: tuple[str, ...], flat: tuple[str, ...]) -> list[str]:
    return [prefix + name for prefix in dotted] + [prefix + name.replace(".", "_") for prefix in flat]
