"""Loaders."""

from __future__ import annotations

import torch
from comfy_api.latest import io

from .bridge.loading import load_model
from .bridge.paths import model_files, model_path
from .bridge.text_encoder import load_text_encoder
from .bridge.vae import load_vae

DTYPES = {
    "default": None,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
    "fp8_e4m3fn": torch.float8_e4m3fn,
}


class SanaNativeLoad(io.ComfyNode):
    """The three parts of a SANA model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SanaNativeLoad",
            display_name="Load SANA",
            category="SANA",
            description="Loads a SANA model with its text encoder and autoencoder; size, version and file layout are recognised.",
            search_aliases=["sana loader", "load sana model", "sana checkpoint", "nvidia sana", "sprint"],
            inputs=[
                io.Combo.Input(
                    "model",
                    options=model_files("diffusion_models"),
                    tooltip="SANA's transformer, in models/diffusion_models: an original .pth, a diffusers file, or one saved by ComfyUI.",
                ),
                io.Combo.Input(
                    "text_encoder",
                    options=model_files("text_encoders"),
                    tooltip="Gemma-2 in models/text_encoders: gemma_2_2b_fp16.safetensors, the file that Lumina 2 uses; "
                    "for the embedded model its own.",
                ),
                io.Combo.Input(
                    "vae",
                    options=model_files("vae"),
                    tooltip="DC-AE in models/vae: dc-ae-f32c32-sana 1.0, 1.1 or Lite; for the embedded model its own.",
                ),
                io.Combo.Input(
                    "native_size",
                    options=["auto", "512", "1024", "2k", "4k"],
                    default="auto",
                    tooltip="Picture size the model was made for. Original .pth files tell it; "
                    "choose 2k or 4k for a 2K or 4K model in another layout.",
                    advanced=True,
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=list(DTYPES),
                    default="default",
                    tooltip="Number type of the transformer's weights in memory. default: float16 for a file stored in it, else bfloat16; "
                    "fp8_e4m3fn halves the memory.",
                    advanced=True,
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="SANA's transformer, for any sampler."),
                io.Clip.Output(tooltip="Gemma-2 with SANA's instruction, for SANA Text Encode or CLIP Text Encode."),
                io.Vae.Output(tooltip="DC-AE, for VAE Encode and VAE Decode."),
            ],
        )

    @classmethod
    def execute(cls, model: str, text_encoder: str, vae: str, native_size: str, weight_dtype: str) -> io.NodeOutput:
        variant = None if native_size == "auto" else native_size
        patcher = load_model(model_path("diffusion_models", model), variant, DTYPES[weight_dtype])
        return io.NodeOutput(patcher, load_text_encoder(model_path("text_encoders", text_encoder)), load_vae(model_path("vae", vae)))


class SanaNativeLoadTextEncoder(io.ComfyNode):
    """Gemma-2 alone."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SanaNativeLoadTextEncoder",
            display_name="Load SANA Text Encoder",
            category="SANA",
            description="Loads Gemma-2 the way SANA reads it: last layer with its final norm, soft-capped attention, "
            "instruction before the prompt.",
            search_aliases=["gemma loader", "sana clip", "gemma 2", "load gemma"],
            inputs=[
                io.Combo.Input(
                    "text_encoder",
                    options=model_files("text_encoders"),
                    tooltip="Gemma-2 with its tokenizer inside, in models/text_encoders: gemma_2_2b_fp16.safetensors.",
                ),
            ],
            outputs=[io.Clip.Output(tooltip="Gemma-2 with SANA's instruction, for SANA Text Encode or CLIP Text Encode.")],
        )

    @classmethod
    def execute(cls, text_encoder: str) -> io.NodeOutput:
        return io.NodeOutput(load_text_encoder(model_path("text_encoders", text_encoder)))
