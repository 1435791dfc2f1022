"""Loaders."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from ..sana_core.fast import FAST
from ..sana_core.precision import TRAINED_PRECISIONS
from .bridge.loading import load_model
from .bridge.paths import choice_error, chosen_file, model_files
from .bridge.text_encoder import load_text_encoder
from .bridge.vae import load_vae

DTYPES = {
    "default": None,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
    "fp8_e4m3fn": torch.float8_e4m3fn,
}


def load_transformer(name: str, native_size: str, weight_dtype: str, trained_precision: str, fast: str) -> Any:
    """MODEL, by the values of those widgets."""
    variant, trained = (None if choice == "auto" else choice for choice in (native_size, trained_precision))
    with chosen_file("diffusion_models", name) as path:
        return load_model(path, variant, DTYPES[weight_dtype], trained, fast=fast)


def load_clip(name: str) -> Any:
    """CLIP, by the value of that widget."""
    with chosen_file("text_encoders", name) as path:
        return load_text_encoder(path)


def load_autoencoder(name: str, fast: str = "auto") -> Any:
    """VAE, by the value of that widget."""
    with chosen_file("vae", name) as path:
        return load_vae(path, fast=fast)


def transformer_inputs() -> list[io.Input]:
    """How a transformer is to be taken, for both nodes that load one."""
    return [
        io.Combo.Input(
            "native_size",
            options=["auto", "512", "1024", "2k", "4k"],
            default="auto",
            tooltip="Picture size that the model was made for. Original .pth files state it. Choose 2k or 4k for a 2K "
            "or 4K model in another layout.",
            advanced=True,
        ),
        io.Combo.Input(
            "weight_dtype",
            options=list(DTYPES),
            default="default",
            tooltip="Number type of the transformer's weights in memory. default: the one it was trained in, or "
            "float32 where the device lacks it. fp8_e4m3fn halves the memory.",
            advanced=True,
        ),
        io.Combo.Input(
            "trained_precision",
            options=["auto", *TRAINED_PRECISIONS],
            default="auto",
            optional=True,
            tooltip="Number type that the model was trained in. Needed only for SANA 1.6B (1024 px), in a file that "
            "does not state it. float16: Sana_1600M_1024px and its MultiLing. bfloat16: Sana_1600M_1024px_BF16. auto "
            "is safe for both.",
            advanced=True,
        ),
        io.Combo.Input(
            "fast",
            options=list(FAST),
            default="auto",
            optional=True,
            tooltip="auto: fused kernels and CUDA graphs where the GPU has them. The node compares each with "
            "PyTorch's own operations at its first use. max: also compiles the blocks; the first picture takes some "
            "minutes longer. off: PyTorch's own operations only. The log says what runs.",
            advanced=True,
        ),
    ]


class SanaNativeLoad(io.ComfyNode):
    """The three parts of a SANA model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SanaNativeLoad",
            display_name="Load SANA",
            category="SANA",
            description="Loads the three parts of a SANA model: transformer, text encoder and autoencoder. It "
            "recognises size, version and file layout.",
            search_aliases=["sana loader", "load sana model", "sana checkpoint", "nvidia sana", "sprint"],
            inputs=[
                io.Combo.Input(
                    "model",
                    options=model_files("diffusion_models"),
                    tooltip="SANA's transformer in models/diffusion_models: an original .pth, a diffusers file, one "
                    "saved by ComfyUI, or a quantised one (GGUF too).",
                ),
                io.Combo.Input(
                    "text_encoder",
                    options=model_files("text_encoders"),
                    tooltip="Gemma-2 in models/text_encoders: gemma_2_2b_fp16.safetensors (as for Lumina 2) or a "
                    "quantised one (GGUF too). The embedded model has its own.",
                ),
                io.Combo.Input(
                    "vae",
                    options=model_files("vae"),
                    tooltip="DC-AE in models/vae: dc-ae-f32c32-sana 1.0, 1.1 or Lite. The embedded model has its own.",
                ),
                *transformer_inputs(),
            ],
            outputs=[
                io.Model.Output(tooltip="SANA's transformer, for any sampler."),
                io.Clip.Output(tooltip="Gemma-2 with SANA's instruction, for SANA Text Encode or CLIP Text Encode."),
                io.Vae.Output(tooltip="DC-AE, for VAE Encode and VAE Decode."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: str,
        text_encoder: str,
        vae: str,
        native_size: str,
        weight_dtype: str,
        trained_precision: str = "auto",
        fast: str = "auto",
    ) -> io.NodeOutput:
        patcher = load_transformer(model, native_size, weight_dtype, trained_precision, fast)
        return io.NodeOutput(patcher, load_clip(text_encoder), load_autoencoder(vae, fast))


class SanaNativeLoadModel(io.ComfyNode):
    """The transformer alone."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SanaNativeLoadModel",
            display_name="Load SANA Model",
            category="SANA/loaders",
            description="Loads SANA's transformer alone, like Load Diffusion Model. Here you can also set what some "
            "files do not state: the picture size of a 2K or 4K model, and the number type of training.",
            search_aliases=["sana transformer", "sana checkpoint loader", "load sana diffusion model", "unet loader"],
            inputs=[
                io.Combo.Input(
                    "model",
                    options=model_files("diffusion_models"),
                    tooltip="SANA's transformer in models/diffusion_models. Older workflows name its repository "
                    "instead, such as Efficient-Large-Model/Sana_1600M_1024px_BF16; the node then looks for that file "
                    "in the folder.",
                ),
                *transformer_inputs(),
            ],
            outputs=[io.Model.Output(tooltip="SANA's transformer, for any sampler.")],
        )

    @classmethod
    def validate_inputs(cls, model: str) -> bool | str:
        return choice_error("diffusion_models", model) or True

    @classmethod
    def execute(
        cls,
        model: str,
        native_size: str,
        weight_dtype: str,
        trained_precision: str = "auto",
        fast: str = "auto",
    ) -> io.NodeOutput:
        return io.NodeOutput(load_transformer(model, native_size, weight_dtype, trained_precision, fast))


class SanaNativeLoadVAE(io.ComfyNode):
    """The autoencoder alone."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SanaNativeLoadVAE",
            display_name="Load SANA VAE",
            category="SANA/loaders",
            description="Same as Load VAE. Use it only for workflows converted from ComfyUI_ExtraModels.",
            search_aliases=["dc-ae loader", "dcae", "sana vae loader", "extra vae loader"],
            inputs=[
                io.Combo.Input(
                    "vae",
                    options=model_files("vae"),
                    tooltip="DC-AE in models/vae: dc-ae-f32c32-sana 1.0, 1.1 or Lite. Older workflows name its "
                    "repository instead, such as mit-han-lab/dc-ae-f32c32-sana-1.1-diffusers; the node then looks for "
                    "a file of that name.",
                ),
            ],
            outputs=[io.Vae.Output(tooltip="DC-AE, for VAE Encode and VAE Decode.")],
        )

    @classmethod
    def validate_inputs(cls, vae: str) -> bool | str:
        return choice_error("vae", vae) or True

    @classmethod
    def execute(cls, vae: str) -> io.NodeOutput:
        return io.NodeOutput(load_autoencoder(vae))


class SanaNativeLoadTextEncoder(io.ComfyNode):
    """Gemma-2 alone."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SanaNativeLoadTextEncoder",
            display_name="Load SANA Text Encoder (Gemma)",
            category="SANA/loaders",
            description="Loads Gemma-2 as SANA uses it: with its final norm, the soft cap of its attention, and "
            "SANA's instruction before the prompt.",
            search_aliases=["gemma loader", "sana clip", "gemma 2", "load gemma"],
            inputs=[
                io.Combo.Input(
                    "text_encoder",
                    options=model_files("text_encoders"),
                    tooltip="Gemma-2 in models/text_encoders, with its tokenizer inside: gemma_2_2b_fp16.safetensors "
                    "or a quantised one (GGUF too).",
                ),
            ],
            outputs=[
                io.Clip.Output(tooltip="Gemma-2 with SANA's instruction, for SANA Text Encode or CLIP Text Encode.")
            ],
        )

    @classmethod
    def execute(cls, text_encoder: str) -> io.NodeOutput:
        return io.NodeOutput(load_clip(text_encoder))
