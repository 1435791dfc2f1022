"""A whole tiny random SANA on disk, as single files, shared by the tests."""

import json
from dataclasses import asdict

import tiny
import tiny_text
import torch
from safetensors.torch import save_file

SAMPLING = {"steps": 3, "guidance_scale": 3.0, "shift": 2.0, "sampler": "flow_dpm", "width": 96, "height": 64}


def write_files(folder, sampling=SAMPLING, **changes):
    """Transformer (which states how it is sampled), autoencoder and text encoder with its tokenizer. Returns {part:
    path}.

    changes: of the transformer's configuration.
    """
    paths = {part: folder / f"{part}.safetensors" for part in ("transformer", "autoencoder", "text_encoder")}
    text = tiny_text.config()
    transformer = tiny.transformer(caption_channels=text.hidden_size, **changes)
    gemma = {f"model.{key}": tensor for key, tensor in tiny_text.state_dict(text).items()}
    spiece = torch.frombuffer(bytearray(tiny_text.spiece()), dtype=torch.uint8)
    save_file(transformer.state_dict(), paths["transformer"], metadata={"sampling": json.dumps(sampling)})
    save_file(tiny.autoencoder().state_dict(), paths["autoencoder"])
    save_file({**gemma, "spiece_model": spiece}, paths["text_encoder"], metadata={"config": json.dumps(asdict(text))})
    return paths
