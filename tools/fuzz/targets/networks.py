"""Safetensors files of the four networks, and quantised ones."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tiny
import tiny_text
import torch
from e2e.tiny_files import nvlabs, original
from safetensors.torch import save
from torch import Tensor, nn

from sana_core.checkpoint import key_maps
from sana_core.checkpoint.files import read_checkpoint
from sana_core.checkpoint.load import load_autoencoder, load_controlnet, load_transformer
from sana_core.checkpoint.read_json import json_tensor
from sana_core.config import AutoencoderConfig, StageConfig, TransformerConfig
from sana_core.dcae.autoencoder import DCAE
from sana_core.quantised.formats import FORMATS, GGUF, SCALED_FP8
from sana_core.quantised.layers import QuantisedWeight
from sana_core.sources import PipelineFiles, released_sampling
from sana_core.text.load import load_text_encoder
from sana_core.transformer.controlnet import SanaControlNet
from sana_core.transformer.model import SanaTransformer

from ..target import Files, Target

FILE = "model.safetensors"
WIDTH = 32
SAMPLING = {"steps": 3, "guidance_scale": 3.0, "shift": 2.0, "sampler": "flow_dpm", "width": 96, "height": 64}
LAYER = "transformer_blocks.0.attn1.to_q"
SETTINGS = {"convrot_groupsize": 16, "group_size": 16}


@functools.cache
def config(**changes: Any) -> TransformerConfig:
    sizes = {"hidden_size": WIDTH, "depth": 1, "num_heads": 1, "num_cross_heads": 2, "ffn_size": WIDTH,
             "caption_channels": 8}  # fmt: skip
    return TransformerConfig(**{**sizes, **changes})


@functools.cache
def weights(**changes: Any) -> dict[str, Tensor]:
    return tiny.randomized(SanaTransformer(config(**changes))).state_dict()


def statement(**changes: Any) -> dict[str, Any]:
    """In our own words, and with what diffusers calls the heads: no released network is so narrow."""
    return {**asdict(config()), "num_cross_attention_heads": 2, **changes}


def stated(**changes: Any) -> dict[str, str]:
    return {"config": json.dumps(statement(**changes)), "sampling": json.dumps(SAMPLING)}


def file(tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> Files:
    return {FILE: save({key: tensor.contiguous() for key, tensor in tensors.items()}, metadata)}


@functools.cache
def transformers() -> list[Files]:
    plain = weights()
    options = {"qk_norm": True, "guidance_embed": True}
    position = {"position": {"base_size": 64, "interpolation": 1.0}}
    inside = json_tensor({name: json.loads(text) for name, text in stated().items()})
    small = {"config": json.dumps({"num_cross_attention_heads": 2, "sample_size": 32, "interpolation_scale": None})}
    return [
        file(plain, stated()),
        file(plain, small),
        file(plain, {"config": json.dumps(statement(**position))}),
        file(weights(**options), stated(**options)),
        file({**plain, "sana_config": inside}),
        file(original(plain, nvlabs(), grid=4), stated()),
        file({f"model.diffusion_model.{key}": tensor for key, tensor in plain.items()}, stated()),
    ]


@functools.cache
def quantised() -> list[Files]:
    """A layer in every format, marked in every way."""
    plain = {key: tensor for key, tensor in weights().items() if key != f"{LAYER}.weight"}
    found = []
    for form in FORMATS.values():
        if form.name.startswith(GGUF):
            continue
        form = form.with_settings(SETTINGS)
        shape = (WIDTH, WIDTH)
        own = {"weight": torch.zeros(form.stored_shape(shape)).to(form.stored[0])}
        for name, side in form.required.items():
            own[name] = torch.ones(side.shapes(shape, form.settings)[0]).to(side.stored[0])
        layer = {f"{LAYER}.{name}": tensor for name, tensor in own.items()}
        mark = {"format": form.name, **SETTINGS}
        if form.name == SCALED_FP8:
            found.append(file({**plain, **layer, "scaled_fp8": torch.zeros(0)}, stated()))
            continue
        found.append(file({**plain, **layer, f"{LAYER}.comfy_quant": json_tensor(mark)}, stated()))
        layers = {"_quantization_metadata": json.dumps({"layers": {LAYER: mark}})}
        found.append(file({**plain, **layer}, {**stated(), **layers}))
    return found


@functools.cache
def controlnets() -> list[Files]:
    heads = {"config": json.dumps({"num_cross_attention_heads": 2, "sample_size": 32})}
    own, blocks = (tiny.randomized(SanaControlNet(config(), embedders=embedders)) for embedders in (True, False))
    return [
        file(own.state_dict(), heads),
        file(original(blocks.state_dict(), key_maps.CONTROLNET_NVLABS), heads),
    ]


@functools.cache
def autoencoders() -> list[Files]:
    widths, blocks = (8, 8, 8, 32, 32, 32), ("res",) * 3 + ("vit",) * 3
    stages = tuple(StageConfig(channels=width, depth=1, block=block) for width, block in zip(widths, blocks))
    tensors = tiny.randomized(DCAE(AutoencoderConfig(encoder=stages, decoder=stages))).state_dict()
    return [file(tensors), file(original(tensors, key_maps.AUTOENCODER_MIT))]


@functools.cache
def text_tensors() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Of a tiny Gemma-2 with its tokenizer, and its configuration."""
    text = tiny_text.config(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, head_dim=4,
                            num_key_value_heads=1, query_pre_attn_scalar=4)  # fmt: skip
    tensors = {f"model.{key}": tensor for key, tensor in tiny_text.state_dict(text).items()}
    spiece = torch.frombuffer(bytearray(tiny_text.spiece()), dtype=torch.uint8)
    return {**tensors, "spiece_model": spiece}, asdict(text)


@functools.cache
def text_encoders() -> list[Files]:
    tensors, text = text_tensors()
    rope = {**text, "rope_parameters": {"rope_theta": 10000.0}, "rms_norm_eps": 1e-6}
    return [
        file(tensors, {"config": json.dumps(rope)}),
        file({**tensors, "gemma_config": json_tensor(text)}),
        file(tensors, {name: str(value) for name, value in text.items()}),
    ]


def reading(load: Callable[..., nn.Module], name: str = FILE) -> Callable[[Path], None]:
    """Loads a file on both devices, and unpacks what is quantised in it."""

    def read(folder: Path) -> None:
        path = folder / name
        load(path, device="meta")
        for module in load(path, device="cpu").modules():
            if isinstance(module, QuantisedWeight):
                module.numbers(torch.float32)

    return read


def read_transformer(folder: Path) -> None:
    path = folder / FILE
    found = load_transformer(path, device="meta")
    files = PipelineFiles(transformer=path, autoencoder=path, text_encoder=path)
    assert isinstance(found, SanaTransformer)
    released_sampling(files, found.config)
    reading(load_transformer)(folder)


def read_alone(folder: Path) -> None:
    read_checkpoint(folder / FILE)


TARGETS = (
    Target(name="transformer", seeds=transformers, read=read_transformer),
    Target(name="quantised", seeds=quantised, read=reading(load_transformer)),
    Target(name="controlnet", seeds=controlnets, read=reading(load_controlnet)),
    Target(name="autoencoder", seeds=autoencoders, read=reading(load_autoencoder)),
    Target(name="text_encoder", seeds=text_encoders, read=reading(load_text_encoder)),
)
