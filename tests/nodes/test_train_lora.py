"""The stock Train LoRA on a SANA model, in bfloat16 autocast as it comes."""

import pytest
import torch
from e2e.comfyui import REASON

loading = pytest.importorskip("sana_pack.nodes.bridge.loading", reason=REASON)
train = pytest.importorskip("comfy_extras.nodes_train", reason=REASON)
comfy_sd = pytest.importorskip("comfy.sd", reason=REASON)
samplers = pytest.importorskip("comfy.samplers", reason=REASON)

STEPS = 4


def defaults():
    """The widgets' values; each input of this node is a list."""
    inputs = train.TrainLoraNode.define_schema().inputs
    return {entry.id: [entry.default] for entry in inputs if getattr(entry, "default", None) is not None}


def draw(patcher, conditioning):
    guider = samplers.CFGGuider(patcher)
    guider.set_conds(conditioning, conditioning)
    guider.set_cfg(1.0)
    noise = torch.randn(1, 32, 4, 4, generator=torch.Generator().manual_seed(0))
    sigmas = torch.tensor([1.0, 0.6, 0.0])
    return guider.sample(noise, torch.zeros_like(noise), samplers.sampler_object("euler"), sigmas, seed=0)


@pytest.mark.parametrize("name, settings", [
    ("sana.safetensors", {}), ("sprint.safetensors", {}), ("sana.safetensors", {"gradient_checkpointing": [False]}),
    ("sana.safetensors", {"algorithm": ["LoKr"]}),
], ids=["as it comes", "Sprint", "no checkpointing", "LoKr"])  # fmt: skip
def test_train_lora(file, name, settings):
    patcher = loading.load_model(file("diffusion_models", name))
    before = {key: weight.clone() for key, weight in patcher.model.state_dict().items()}
    generator = torch.Generator().manual_seed(1)
    conditioning = [[torch.randn(1, 5, 48, generator=generator), {}]]
    latents = {"samples": torch.randn(1, 32, 4, 4, generator=generator)}
    inputs = {**defaults(), "steps": [STEPS], "learning_rate": [0.01], "existing_lora": ["[None]"], **settings}
    with torch.inference_mode(False):
        lora, losses, *_ = train.TrainLoraNode.execute(
            model=[patcher], latents=[latents], positive=[conditioning], **inputs
        ).result
    assert len(losses["loss"]) == STEPS and torch.tensor(losses["loss"]).isfinite().all()
    assert all(weight.isfinite().all() for weight in lora.values())
    assert all(torch.equal(weight, before[key]) for key, weight in patcher.model.state_dict().items())
    patched, _ = comfy_sd.load_lora_for_models(patcher, None, lora, 1.0, 0.0)
    change = draw(patched, conditioning) - draw(patcher, conditioning)
    assert change.isfinite().all() and change.abs().max() > 1e-3
