"""ComfyUI's loaders and the pack's on files of every layout: the result is that of sana_core on the same file."""

import numpy as np
import pytest
import torch
from agreement import assert_agree, error
from e2e.expected import Core
from e2e.graphs import PROMPT, Parts, latents, pictures

from sana_core import load_transformer

TOLERANCE = 1e-4
MODELS = ("sana.safetensors", "sana.pth", "sana_prefixed.safetensors", "sana15.safetensors")
AUTOENCODERS = ("dcae.safetensors", "dcae_mit.safetensors", "dcae_lite.safetensors")


@pytest.fixture(scope="module")
def core(server):
    return Core(server)


@pytest.mark.parametrize("name", MODELS)
def test_models(server, name):
    assert_agree(latents(server, Parts.sample, model=name), Core(server, name).ksampler(), TOLERANCE)


def test_weights_in_float8(server, core):
    """Matrices and convolutions are rounded to float8 as they are loaded; norms and tables are not. All is
    calculated in float32.
    """

    def build(parts):
        name = {"unet_name": "sana.safetensors", "weight_dtype": "fp8_e4m3fn"}
        return parts.sample(model=parts.g.add("UNETLoader", **name))

    rounded = Core(server)
    with torch.no_grad():
        for module in rounded.transformer.modules():
            if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
                for parameter in module.parameters():
                    parameter.copy_(parameter.to(torch.float8_e4m3fn))
    found = latents(server, build)
    assert_agree(found, rounded.ksampler(), TOLERANCE)
    assert error(found, core.ksampler()) > 1e-2


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_autoencoders(server, name):
    found = pictures(server, lambda parts: parts.decode(parts.sample()), vae=name)
    core = Core(server, vae=name)
    assert found.shape == (1, 96, 128, 3) and np.abs(found - core.decode(core.ksampler())).max() <= 1


def test_the_three_in_one(server, core):
    def build(parts):
        files = {"model": "sana.safetensors", "text_encoder": "gemma.safetensors", "vae": "dcae.safetensors"}
        loader = parts.g.add("SanaNativeLoad", **files, native_size="auto", weight_dtype="default")
        positive, negative = (
            parts.g.add("CLIPTextEncode", clip=loader[1], text=parts.g[node.id]["inputs"]["text"])
            for node in (parts.positive, parts.negative)
        )
        parts.vae = loader[2]
        return parts.decode(parts.sample(model=loader[0], positive=positive, negative=negative))

    assert np.abs(pictures(server, build) - core.decode(core.ksampler())).max() <= 1


# --- merged models


def other_model(parts, ratio):
    other = parts.g.add("UNETLoader", unet_name="sana_other.safetensors", weight_dtype="default")
    return parts.g.add("ModelMergeSimple", model1=parts.model, model2=other, ratio=ratio)


@pytest.mark.parametrize("ratio", [1.0, 0.5])
def test_merged_models(server, core, ratio):
    """ratio: the share of the first model. The host merges the parameters of layers alone, so that the tables, which
    stand beside layers, stay those of the first model.
    """
    merged = Core(server)
    other = load_transformer(server.base / "models/diffusion_models/sana_other.safetensors", dtype=torch.float32)
    with torch.no_grad():
        for (name, parameter), added in zip(merged.transformer.named_parameters(), other.parameters()):
            if not name.endswith("scale_shift_table"):
                parameter.lerp_(added, 1.0 - ratio)
    found = latents(server, lambda parts: parts.sample(model=other_model(parts, ratio)))
    assert_agree(found, merged.ksampler(), TOLERANCE)
    assert (error(found, core.ksampler()) > 1e-2) == (ratio < 1.0)


# --- the text encoder's node


def test_sana_text_encode(server, core):
    def build(parts):
        encoded = parts.g.add("SanaNativeTextEncode", clip=parts.clip, text=PROMPT, instruction="upstream")
        return parts.sample(positive=encoded)

    assert_agree(latents(server, build), core.ksampler(), TOLERANCE)
