"""Tiny random models as files, in the layouts that people have."""

import json
from collections import defaultdict
from dataclasses import asdict

import tiny
import tiny_lora
import tiny_text
import torch
from PIL import Image
from safetensors.torch import save_file

from sana_core.checkpoint import key_maps

TEXT_WIDTH = 48


def write_all(models):
    """The folder tree of ComfyUI's models, with a file of every layout. Returns `models`."""
    for kind in ("diffusion_models", "vae", "text_encoders", "controlnet", "loras"):
        (models / kind).mkdir(parents=True, exist_ok=True)
    write_transformers(models / "diffusion_models")
    write_autoencoders(models / "vae")
    write_text_encoders(models / "text_encoders")
    write_controlnets(models / "controlnet")
    save_file(
        tiny_lora.peft(tiny_lora.factors(tiny.transformer(caption_channels=TEXT_WIDTH))),
        models / "loras" / "lora.safetensors",
    )
    return models


def write_transformers(folder):
    base = tiny.transformer(caption_channels=TEXT_WIDTH).state_dict()
    save_file(base, folder / "sana.safetensors")
    save_file(
        {f"model.diffusion_model.{key}": tensor for key, tensor in base.items()}, folder / "sana_prefixed.safetensors"
    )
    torch.save({"state_dict": original(base, nvlabs(), grid=32)}, folder / "sana.pth")
    save_file(tiny.transformer(seed=1, caption_channels=TEXT_WIDTH).state_dict(), folder / "sana_other.safetensors")
    qk_norm = tiny.transformer(caption_channels=TEXT_WIDTH, qk_norm=True, hidden_size=288)
    save_file(qk_norm.state_dict(), folder / "sana15.safetensors")
    torch.save({"state_dict": original(qk_norm.state_dict(), nvlabs(), grid=32)}, folder / "sana15.pth")
    sprint = tiny.transformer(caption_channels=TEXT_WIDTH, qk_norm=True, guidance_embed=True).state_dict()
    save_file(sprint, folder / "sprint.safetensors")
    torch.save({"state_dict": original(sprint, nvlabs(guided=True), grid=32)}, folder / "sprint.pth")
    torch.save({"state_dict": original(base, nvlabs(), grid=64)}, folder / "sana_2k.pth")
    torch.save({"state_dict": original(base, nvlabs(), grid=128)}, folder / "sana_4k.pth")
    save_file({key: tensor.half() for key, tensor in base.items()}, folder / "sana_fp16.safetensors")
    stated = {"config": json.dumps(asdict(tiny.transformer_config(caption_channels=TEXT_WIDTH)))}
    sampling = {"sampling": json.dumps({"steps": 5, "guidance_scale": 3.0, "shift": 2.0, "width": 128, "height": 96})}
    save_file(base, folder / "sana_stated.safetensors", {**stated, **sampling})


def write_autoencoders(folder):
    full = tiny.autoencoder().state_dict()
    save_file(full, folder / "dcae.safetensors")
    save_file(original(full, key_maps.AUTOENCODER_MIT), folder / "dcae_mit.safetensors")
    save_file(tiny.autoencoder(lite=True).state_dict(), folder / "dcae_lite.safetensors")


def write_controlnets(folder):
    """For `sana` and `sprint`, the last one for `sana15`; embedders of its own in diffusers' files alone."""
    base = original(tiny.transformer(caption_channels=TEXT_WIDTH).state_dict(), nvlabs(), grid=32)
    blocks = original(tiny.controlnet(seed=2, embedders=False).state_dict(), key_maps.CONTROLNET_NVLABS)
    torch.save({"state_dict": {**base, **blocks}}, folder / "control.pth")
    torch.save(blocks, folder / "control_alone.pth")
    save_file(tiny.controlnet(seed=3, caption_channels=TEXT_WIDTH).state_dict(), folder / "control.safetensors")
    save_file(
        tiny.controlnet(seed=4, caption_channels=TEXT_WIDTH, hidden_size=288).state_dict(),
        folder / "control_288.safetensors",
    )


def write_text_encoders(folder):
    config = tiny_text.config(hidden_size=TEXT_WIDTH)
    weights = {f"model.{key}": tensor for key, tensor in tiny_text.state_dict(config).items()}
    spiece = torch.frombuffer(bytearray(tiny_text.spiece()), dtype=torch.uint8)
    metadata = {"config": json.dumps(asdict(config))}
    save_file({**weights, "spiece_model": spiece}, folder / "gemma.safetensors", metadata)
    save_file(weights, folder / "gemma_without_tokenizer.safetensors", metadata)


def nvlabs(guided=False):
    return key_maps.TRANSFORMER_NVLABS + (key_maps.GUIDED_TIME_EMBED_NVLABS if guided else key_maps.TIME_EMBED_NVLABS)


def original(tensors, key_map, grid=0):
    """Tensors under the original project's names: fused projections, 1x1 convolutions, `pos_embed` of grid x grid
    tokens.
    """
    parts = defaultdict(list)
    for key, tensor in tensors.items():
        parts[key_maps.foreign_key(key, key_map)].append(tensor)
    fused = {key: torch.cat(tensors) for key, tensors in parts.items()}
    for key, tensor in fused.items():
        if (
            key.endswith(
                ("inverted_conv.conv.weight", "point_conv.conv.weight", "qkv.conv.weight", "main.proj.conv.weight")
            )
            and tensor.ndim == 2
        ):
            fused[key] = tensor[:, :, None, None]
    return {**fused, "pos_embed": torch.zeros(1, grid * grid, len(fused["x_embedder.proj.weight"]))} if grid else fused


def write_picture(folder, name="picture.png"):
    """A picture of 128 x 96 whose left half is transparent: a mask for LoadImage."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = (torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0)) * 255).byte().permute(1, 2, 0).numpy()
    picture = Image.fromarray(pixels).resize((128, 96), Image.Resampling.BICUBIC)
    alpha = Image.new("L", picture.size, 255)
    alpha.paste(0, (0, 0, 64, 96))
    picture.putalpha(alpha)
    picture.save(folder / name)
