"""What options of ComfyUI choose on devices that this machine lacks: number types, and weights that stay away from the
GPU.
"""

import pytest
import torch
from comfy import model_management as management
from comfy import sample, samplers
from sana_pack.nodes.bridge import loading, sampling, text_encoder, vae
from sana_pack.sana_core.sources import NANO_FILES

HALF, BRAIN, FULL = torch.float16, torch.bfloat16, torch.float32


def choose(monkeypatch, option, abilities=()):
    """As if the host was started with an option, for a device that computes in these number types."""
    if option is not None:
        monkeypatch.setattr(management.args, option, True)
    monkeypatch.setattr(management, "should_use_fp16", lambda *args, **more: HALF in abilities)
    monkeypatch.setattr(management, "should_use_bf16", lambda *args, **more: BRAIN in abilities)


@pytest.mark.parametrize(
    "option, abilities, chosen",
    [
        (None, (HALF, BRAIN), BRAIN),
        ("fp16_vae", (HALF, BRAIN), BRAIN),
        ("fp16_vae", (HALF,), FULL),
        ("bf16_vae", (HALF, BRAIN), BRAIN),
        ("fp32_vae", (HALF, BRAIN), FULL),
    ],
)
def test_number_type_of_the_autoencoder(monkeypatch, caplog, option, abilities, chosen):
    choose(monkeypatch, option, abilities)
    loaded = vae.load_vae(str(NANO_FILES.autoencoder))
    assert loaded.vae_dtype == chosen
    assert {parameter.dtype for parameter in loaded.first_stage_model.parameters()} == {chosen}
    assert ("overflows in float16" in caplog.text) == (option == "fp16_vae")


@pytest.mark.parametrize(
    "option, abilities, held, computed",
    [
        (None, (HALF, BRAIN), BRAIN, BRAIN),
        (None, (HALF,), FULL, FULL),
        ("fp16_unet", (HALF, BRAIN), HALF, HALF),
        ("fp16_unet", (), HALF, FULL),
        ("bf16_unet", (HALF, BRAIN), BRAIN, BRAIN),
        ("bf16_unet", (), BRAIN, FULL),
        ("fp32_unet", (HALF, BRAIN), FULL, FULL),
    ],
)
def test_number_type_of_the_transformer(monkeypatch, caplog, option, abilities, held, computed):
    """The embedded model was trained in bfloat16: float16 by force costs a warning."""
    choose(monkeypatch, option, abilities)
    model = loading.load_model(str(NANO_FILES.transformer)).model
    assert (model.get_dtype(), model.get_dtype_inference()) == (held, computed)
    assert ("was made to compute in float16" in caplog.text) == (computed == HALF)


@pytest.mark.parametrize("option", ["fp16_text_enc", "bf16_text_enc", "fp32_text_enc"])
def test_number_type_of_the_text_encoder(monkeypatch, option):
    """The host holds language models in the type of their file, whatever the option, and computes in float32."""
    expected = text_encoder.load_text_encoder(str(NANO_FILES.text_encoder))
    expected = sampling.encode_prompt(expected, "a red apple", "default")[0][0][0]
    choose(monkeypatch, option)
    clip = text_encoder.load_text_encoder(str(NANO_FILES.text_encoder))
    found = sampling.encode_prompt(clip, "a red apple", "default")[0][0][0]
    weights = {key: tensor.dtype for key, tensor in clip.cond_stage_model.state_dict().items() if "q_proj" in key}
    assert set(weights.values()) == {HALF} and found.dtype == FULL and torch.equal(found, expected)


@pytest.mark.parametrize("state", ["LOW_VRAM", "NO_VRAM"])
def test_weights_that_come_for_each_layer(monkeypatch, conditioning_of_nano, state):
    """--lowvram and --novram, with the CPU as the GPU."""

    def draw():
        model = loading.load_model(str(NANO_FILES.transformer))
        noise = torch.randn(1, 32, 2, 2, generator=torch.Generator().manual_seed(0))
        steps = samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", 2)
        sampler = samplers.sampler_object("euler")
        start = torch.zeros_like(noise)
        found = sample.sample_custom(
            model, noise, 4.5, sampler, steps, *conditioning_of_nano, start, disable_pbar=True, seed=0
        )
        return found, model.model.model_lowvram

    expected, _ = draw()
    management.unload_all_models()
    monkeypatch.setattr(management, "vram_state", getattr(management.VRAMState, state))
    monkeypatch.setattr(management, "is_device_cpu", lambda device: False)
    monkeypatch.setattr(management, "minimum_inference_memory", lambda: 1e15)  # nothing is free
    found, lowvram = draw()
    assert torch.equal(found, expected) and lowvram


@pytest.fixture
def conditioning_of_nano():
    clip = text_encoder.load_text_encoder(str(NANO_FILES.text_encoder))
    return [sampling.encode_prompt(clip, text, None)[0] for text in ("a red apple", "")]
