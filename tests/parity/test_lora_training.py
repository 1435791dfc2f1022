"""Trained LoRAs against PEFT on diffusers' transformer, float32: the same gradients, and the same effect of the file.

Of models with qk norm the gradients differ by some 1e-5: the norms' epsilons do.
"""

import pytest
import torch
from agreement import assert_agree, error
from safetensors.torch import load_file, save_file

from sana_core.checkpoint.load import load_transformer
from sana_core.lora import apply_lora, load_lora
from sana_core.training.lora_file import save_lora
from sana_core.training.lora_layers import ATTENTION, FEED_FORWARD, attach_lora

diffusers = pytest.importorskip("diffusers", reason="diffusers' transformer is the reference these tests compare with")
peft = pytest.importorskip("peft", reason="PEFT's adapters are the reference these tests compare with")

MODELS = {
    "1.0": {},
    "1.5": {"qk_norm": "rms_norm_across_heads"},
    "Sprint": {"qk_norm": "rms_norm_across_heads", "guidance_embeds": True, "guidance_embeds_scale": 0.1},
}
TARGETS = {"attention": ATTENTION, "feed-forward too": (*ATTENTION, *FEED_FORWARD)}
RANK, ALPHA = 4, 6.0


@pytest.fixture(params=MODELS)
def models(request, tmp_path):
    """Ours, diffusers' and a function that calls either on the same input."""
    torch.manual_seed(5)  # of some seeds a number at a kink (ReLU) has another sign with another number of threads
    theirs = diffusers.SanaTransformer2DModel(
        num_attention_heads=7, attention_head_dim=32, num_cross_attention_heads=2, cross_attention_head_dim=112,
        cross_attention_dim=224, caption_channels=96, num_layers=2, sample_size=32, **MODELS[request.param],
    ).eval()  # fmt: skip
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    latent, text, scm = torch.randn(2, 32, 6, 10), torch.randn(2, 9, 96), request.param == "Sprint"
    timestep = torch.tensor([0.97, 0.3]) if scm else torch.tensor([999.0, 13.5])
    guidance = {"guidance": torch.tensor([0.45, 0.1])} if scm else {}

    def call(model):
        if isinstance(model, diffusers.SanaTransformer2DModel):
            return model(latent, text, timestep, return_dict=False, **guidance)[0]
        plain = {name: scale * 10 for name, scale in guidance.items()}
        return model(latent, timestep * (1000 if scm else 1), text, **plain)

    return load_transformer(tmp_path / "model.safetensors", dtype=torch.float32), theirs, call


def adapted_by_peft(network, lora, dora):
    """The same adapters in diffusers' network; the parameters by the keys of a file."""
    network.requires_grad_(False)
    network.add_adapter(
        peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(lora.targets), use_dora=dora), "trained"
    )
    learning = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    by_key = {f"transformer.{name.replace('.trained', '')}": parameter for name, parameter in learning.items()}
    own = parameters(lora)
    assert by_key.keys() == own.keys()
    with torch.no_grad():
        for key, parameter in by_key.items():
            parameter.copy_(own[key].reshape(parameter.shape))
    return by_key


def parameters(lora):
    """By the names that PEFT has for them."""
    return {
        f"transformer.{name}.{key}{'' if key.endswith('weight') else '.weight'}": parameter
        for name, adapter in lora.by_name.items()
        for key, parameter in adapter.named_parameters()
    }


def begun(network, targets, dora):
    """A LoRA that has learnt something."""
    lora = attach_lora(network, rank=RANK, alpha=ALPHA, seed=0, targets=targets, dora=dora)
    with torch.no_grad():
        for name, parameter in lora.named_parameters():
            noise = torch.randn_like(parameter)
            parameter.add_(noise * parameter * 0.2 if "magnitude" in name else noise * 0.1)
    return lora


@pytest.mark.parametrize("dora", [False, True], ids=["LoRA", "DoRA"])
@pytest.mark.parametrize("targets", TARGETS.values(), ids=list(TARGETS))
def test_gradients(models, targets, dora):
    ours, theirs, call = models
    lora = begun(ours, targets, dora)
    expected = adapted_by_peft(theirs, lora, dora)
    target = torch.randn(2, 32, 6, 10)
    outputs = [call(model) for model in (ours, theirs)]
    assert_agree(outputs[0].detach(), outputs[1].detach(), 1e-4)
    for output in outputs:
        (output - target).square().mean().backward()
    for key, parameter in parameters(lora).items():
        wanted = expected[key].grad.reshape(parameter.shape)
        assert (parameter.grad - wanted).norm() < 1e-4 * wanted.norm() > 0, key


@pytest.mark.parametrize("dora", [False, True], ids=["LoRA", "DoRA"])
@pytest.mark.parametrize("targets", TARGETS.values(), ids=list(TARGETS))
def test_the_file(models, tmp_path, targets, dora):
    ours, theirs, call = models
    file = tmp_path / "lora.safetensors"
    with torch.no_grad():
        plain = call(ours)
        with begun(ours, targets, dora) as lora:
            trained = call(ours)
            save_lora(file, lora, base="a tiny SANA")
        assert error(call(ours), plain) == 0
        apply_lora(ours, load_lora(file))
        assert_agree(call(ours), trained, 1e-5)
        assert_agree(call(theirs), plain, 1e-4)
        pipeline = diffusers.SanaPipeline(
            tokenizer=None, text_encoder=None, vae=None, transformer=theirs, scheduler=None
        )
        pipeline.load_lora_weights(file)
        assert_agree(call(theirs), trained, 1e-4)
        assert error(plain, trained) > 0.02


@pytest.mark.parametrize("models", ["1.0"], indirect=True)
@pytest.mark.parametrize("configured", [True, False], ids=["as it is", "without its configuration"])
def test_alpha_is_read_by_all(models, tmp_path, configured):
    """Also by programs that read no configuration, as diffusers before 0.35."""
    ours, theirs, call = models
    file = tmp_path / "lora.safetensors"
    with torch.no_grad():
        with begun(ours, ATTENTION, False) as lora:
            trained = call(ours)
            save_lora(file, lora, base="a tiny SANA")
        if not configured:
            save_file(load_file(file), file)
        theirs.load_lora_adapter(tmp_path, weight_name=file.name)
        assert_agree(call(theirs), trained, 1e-4)
        apply_lora(ours, load_lora(file))
        assert_agree(call(ours), trained, 1e-5)
