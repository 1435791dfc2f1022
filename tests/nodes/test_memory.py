"""Memory and number types of a MODEL where the host's rules do not fit SANA."""

import importlib.util
from pathlib import Path

import pytest
import torch
from agreement import error
from comfy import controlnet, samplers
from comfy import model_management as management
from comfy import sd as comfy_sd
from comfy.ldm.modules import attention
from safetensors.torch import load_file
from sana_pack.nodes.bridge import loading, model

FP8 = [torch.float8_e4m3fn, torch.float8_e5m2]


@pytest.fixture(scope="module")
def path(file):
    return file("diffusion_models", "sana15.safetensors")


@pytest.mark.parametrize("pytorch_attention", [True, False])
def test_a_step_costs_the_same_with_every_attention(monkeypatch, path, pytorch_attention):
    """4096 px with guidance, in 16 bit, of a network as wide as the 1.6B models."""
    network = loading.load_model(path).model
    monkeypatch.setattr(network, "memory_usage_factor", model.MEMORY_FACTOR)
    monkeypatch.setattr(network, "get_dtype_inference", lambda: torch.bfloat16)
    monkeypatch.setattr(management, "xformers_enabled", lambda: False)
    monkeypatch.setattr(management, "pytorch_attention_flash_attention", lambda: pytorch_attention)
    needed = network.memory_required([2, 32, 128, 128])
    assert needed == 4 * network.memory_required([2, 32, 64, 64])
    config, lengths = network.diffusion_model.config, (320, 32)
    shapes = {"c_crossattn": [[1, length, 2304] for length in lengths]}
    keys_and_values = 2 * sum(lengths) * config.depth * config.hidden_size * 2
    assert network.memory_required([2, 32, 128, 128], shapes) == needed + keys_and_values
    assert 1.5e9 < needed < 3e9


def test_attention_without_a_fused_kernel_fits_the_estimate(monkeypatch, path):
    """Cross-attention of the 1.6B models at 1024 px with guidance: it holds the logits of 320 tokens for each cell."""
    network = loading.load_model(path).model
    monkeypatch.setattr(network, "memory_usage_factor", model.MEMORY_FACTOR)
    monkeypatch.setattr(network, "get_dtype_inference", lambda: torch.bfloat16)
    query, text = (torch.empty(2, tokens, 2240, dtype=torch.bfloat16, device="meta") for tokens in (32 * 32, 320))
    with load_meter().LiveMemory(extra=3 * query.nbytes) as live:  # the residual, its norm and the queries
        attention.attention_basic(query, text, text, 20)
    assert live.peak_bytes < network.memory_required([2, 32, 32, 32])


def load_meter():
    spec = importlib.util.spec_from_file_location(
        "sana_meter", Path(__file__).parents[2] / "sana_core" / "live_memory.py"
    )
    meter = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(meter)
    return meter


@pytest.mark.parametrize("dtype", FP8)
@pytest.mark.parametrize("load", ["stock", "own"])
def test_small_weights_are_not_held_in_8_bits(path, load, dtype):
    options = {"dtype": dtype}
    patcher = comfy_sd.load_diffusion_model(path, options) if load == "stock" else loading.load_model(path, dtype=dtype)
    network, original = patcher.model.diffusion_model, load_file(path)
    small = {key: weight for key, weight in network.state_dict().items() if "norm" in key or "table" in key}
    assert len(small) == 2 + 2 * 5
    compute = patcher.model.get_dtype_inference()
    for key, weight in network.state_dict().items():
        assert weight.dtype == (compute if key in small else dtype), key
    assert all(torch.equal(weight, original[key].to(compute)) for key, weight in small.items())
    assert network.transformer_blocks[0].scale_shift_table_comfy_model_dtype == compute  # under dynamic VRAM
    assert patcher.model_dtype() == dtype


def test_8_bit_weights_draw_nearly_the_same(path):
    results = []
    for dtype in (None, torch.float8_e4m3fn):
        patcher = loading.load_model(path, dtype=dtype)
        guider = samplers.CFGGuider(patcher)
        states = torch.randn(1, 5, 48, generator=torch.Generator().manual_seed(1))
        guider.set_conds([[states, {}]], [[states * 0.5, {}]])
        guider.set_cfg(2.0)
        noise = torch.randn(1, 32, 4, 4, generator=torch.Generator().manual_seed(0))
        sampler, sigmas = samplers.sampler_object("euler"), torch.linspace(1, 0, 5)
        results.append(guider.sample(noise, torch.zeros_like(noise), sampler, sigmas, seed=0))
    assert 0 < error(results[1], results[0]) < 0.5


def test_a_controlnet_in_8_bits(file):
    path = file("controlnet", "control.safetensors")
    loaded = controlnet.load_controlnet(path, model_options={"dtype": torch.float8_e4m3fn})
    for key, weight in loaded.control_model.state_dict().items():
        small = "norm" in key or "table" in key
        assert weight.dtype == (torch.float32 if small else torch.float8_e4m3fn), key
