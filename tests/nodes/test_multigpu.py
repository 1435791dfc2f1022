"""The host's MultiGPU CFG Split. A machine without two GPUs has "cpu" and "cpu:1", which PyTorch takes for one."""

import comfy.model_management as management
import folder_paths
import pytest
import tiny
import tiny_lora
import torch
from agreement import assert_agree
from comfy_extras.nodes_multigpu import MultiGPUCFGSplitNode
from e2e import in_process
from safetensors.torch import save_file
from sana_pack.nodes.bridge import loading, sampling
from sana_pack.nodes.bridge import vae as vae_bridge

import nodes as comfy_nodes

GENERATOR = torch.Generator().manual_seed(11)
STATES = [torch.randn(1, length, 48, generator=GENERATOR) for length in (9, 5)]
NOISE = torch.randn(2, 32, 3, 4, generator=GENERATOR)
PICTURE = torch.rand(1, 96, 128, 3, generator=GENERATOR)
DEVICES = [torch.device("cpu"), torch.device("cpu", 1)]


@pytest.fixture
def model(file):
    return loading.load_model(file("diffusion_models", "sana.safetensors"))


@pytest.fixture
def two_devices(monkeypatch):
    monkeypatch.setattr(management, "get_all_torch_devices", lambda exclude_current=False: DEVICES)


def split(model):
    (patcher,) = MultiGPUCFGSplitNode.execute(model, 2).result
    return patcher


def drawn(model, conds=None):
    conds = conds or ([[STATES[0], {}]], [[STATES[1], {}]])
    sigmas = sampling.make_sigmas(model, "flow_dpm", 4)
    return in_process.sample(model, conds, NOISE, sampling.make_sampler("flow_dpm"), sigmas, cfg=4.5)


def rows(patcher):
    """What each of its networks computes in a run: rows of a batch, by device."""
    found = {}
    clones = patcher.get_additional_models_with_key("multigpu")
    for each in (patcher, *clones):
        network = each.model.diffusion_model
        found[each.load_device] = []
        network.register_forward_pre_hook(
            lambda module, given, device=each.load_device: found[device].append(len(given[0]))
        )
    return found


def test_both_halves_of_guidance_are_drawn_by_networks_of_their_own(model, two_devices):
    expected = drawn(model)
    patcher = split(model)
    seen = rows(patcher)
    assert_agree(drawn(patcher), expected, 1e-5)
    assert list(seen) == DEVICES and all(calls and set(calls) == {2} for calls in seen.values())
    assert_agree(drawn(patcher), expected, 1e-5)


def test_a_lora_is_on_both(model, two_devices, models):
    folder_paths.add_model_folder_path("loras", str(models / "loras"))
    (models / "loras").mkdir(exist_ok=True)
    save_file(
        tiny_lora.peft(tiny_lora.factors(tiny.transformer(caption_channels=48))), models / "loras" / "m.safetensors"
    )
    (patched,) = comfy_nodes.LoraLoaderModelOnly().load_lora_model_only(model, "m.safetensors", 0.7)
    expected = drawn(patched)
    assert not torch.allclose(expected, drawn(model), atol=1e-3)
    assert_agree(drawn(split(patched)), expected, 1e-5)


def test_a_controlnet_is_followed_by_both(model, two_devices, file, models):
    folder_paths.add_model_folder_path("controlnet", str(models / "controlnet"))
    network = comfy_nodes.ControlNetLoader().load_controlnet("control.safetensors")[0]
    vae = vae_bridge.load_vae(file("vae", "dcae.safetensors"))
    positive, negative = [[STATES[0], {}]], [[STATES[1], {}]]
    conds = comfy_nodes.ControlNetApplyAdvanced().apply_controlnet(
        positive, negative, network, PICTURE, 1.0, 0.0, 1.0, vae=vae
    )
    expected = drawn(model, conds)
    assert not torch.allclose(expected, drawn(model), atol=1e-3)
    assert_agree(drawn(split(model), conds), expected, 1e-5)


def test_one_gpu_draws_as_ever(model):
    assert_agree(drawn(split(model)), drawn(model), 1e-5)
