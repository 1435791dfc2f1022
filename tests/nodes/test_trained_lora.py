"""A LoRA that the library trained, in ComfyUI's own loader: the effect that it had in training."""

import pytest
import torch
from agreement import assert_agree
from e2e.comfyui import REASON
from e2e.tiny_files import TEXT_WIDTH
from safetensors.torch import load_file

loading = pytest.importorskip("sana_pack.nodes.bridge.loading", reason=REASON)
core_load = pytest.importorskip("sana_pack.sana_core.checkpoint.load", reason=REASON)
lora_file = pytest.importorskip("sana_pack.sana_core.training.lora_file", reason=REASON)
lora_layers = pytest.importorskip("sana_pack.sana_core.training.lora_layers", reason=REASON)
folder_paths = pytest.importorskip("folder_paths", reason=REASON)
comfy_nodes = pytest.importorskip("nodes", reason=REASON)
comfy_sd = pytest.importorskip("comfy.sd", reason=REASON)
model_management = pytest.importorskip("comfy.model_management", reason=REASON)

ALL = (*lora_layers.ATTENTION, *lora_layers.FEED_FORWARD)


def velocity(network):
    generator = torch.Generator().manual_seed(0)
    latent, text = torch.randn(2, 32, 5, 3, generator=generator), torch.randn(2, 9, TEXT_WIDTH, generator=generator)
    return network(latent, torch.tensor([749.0, 12.0]), text)


def drawn(patcher):
    model_management.load_models_gpu([patcher])
    try:
        return velocity(patcher.model.diffusion_model)
    finally:
        model_management.unload_all_models()


@pytest.fixture
def train(file, tmp_path, monkeypatch):
    """A function that writes a LoRA into ComfyUI's folder; it returns the velocity without it and with it."""
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(tmp_path)], {".safetensors"}))

    def train(dora):
        network = core_load.load_transformer(file("diffusion_models", "sana.safetensors"), dtype=torch.float32)
        plain = velocity(network)
        lora = lora_layers.attach_lora(network, rank=4, alpha=6, seed=0, targets=ALL, dora=dora)
        for adapter in lora.by_name.values():
            adapter.lora_B.weight.copy_(torch.randn(adapter.lora_B.weight.shape) * 0.05)
        lora_file.save_lora(tmp_path / "trained.safetensors", lora, base="a tiny SANA")
        return plain, velocity(network)

    return train


@pytest.mark.parametrize("dora", [False, True], ids=["LoRA", "DoRA"])
def test_the_stock_loader(file, train, dora):
    plain, trained = train(dora)
    model = loading.load_model(file("diffusion_models", "sana.safetensors"), dtype=torch.float32)
    (patched,) = comfy_nodes.LoraLoaderModelOnly().load_lora_model_only(model, "trained.safetensors", 1.0)
    assert_agree(drawn(patched), trained, 1e-4)
    assert_agree(drawn(model), plain, 1e-5)
    assert (trained - plain).abs().max() > 0.01 * plain.abs().max()


def test_alpha_needs_no_configuration(file, train, tmp_path):
    """A host without the pack's part reads the tensors alone."""
    _, trained = train(False)
    model = loading.load_model(file("diffusion_models", "sana.safetensors"), dtype=torch.float32)
    patched, _ = comfy_sd.load_lora_for_models(model, None, load_file(tmp_path / "trained.safetensors"), 1.0, 0.0)
    assert_agree(drawn(patched), trained, 1e-4)
