"""The hooks: they act on SANA's files alone, once, and a missing one leaves the pack's own loader working."""

import logging

import pytest
import torch
from e2e.comfyui import REASON
from safetensors.torch import load_file

registration = pytest.importorskip("sana_pack.nodes.bridge.registration", reason=REASON)
loading = pytest.importorskip("sana_pack.nodes.bridge.loading", reason=REASON)
model = pytest.importorskip("sana_pack.nodes.bridge.model", reason=REASON)
model_detection = pytest.importorskip("comfy.model_detection", reason=REASON)
supported_models = pytest.importorskip("comfy.supported_models", reason=REASON)
model_base = pytest.importorskip("comfy.model_base", reason=REASON)
sd = pytest.importorskip("comfy.sd", reason=REASON)


def test_install_twice_is_once():
    before = (list(supported_models.models), model_detection.detect_unet_config, sd.VAE.__init__)
    registration.install()
    assert (list(supported_models.models), model_detection.detect_unet_config, sd.VAE.__init__) == before
    assert supported_models.models[0] is model.Sana
    assert sum(config is model.Sana for config in supported_models.models) == 1


@pytest.mark.parametrize("call", [
    lambda detect, tensors: detect(tensors, ""),
    lambda detect, tensors: detect(tensors, "", None),
    lambda detect, tensors: detect(tensors, "", metadata={"config": "{}"}),
    lambda detect, tensors: detect(state_dict=tensors, key_prefix="", metadata=None),
])  # fmt: skip
def test_other_models_pass_through(monkeypatch, call):
    seen = []
    monkeypatch.setattr(
        model_detection,
        "detect_unet_config",
        lambda *args, **kwargs: seen.append((args, kwargs)) or {"image_model": "other"},
    )
    registration._wrap_model_detection()
    tensors = {"double_blocks.0.img_attn.qkv.weight": torch.zeros(2)}
    assert call(model_detection.detect_unet_config, tensors) == {"image_model": "other"}
    assert len(seen) == 1


def test_controlnet_and_video_models_pass_through(file):
    plain = load_file(file("diffusion_models", "sana.safetensors"))
    for foreign in ("controlnet_blocks.0.weight", "transformer_blocks.0.ff.conv_temp.weight"):
        assert (model_detection.detect_unet_config({**plain, foreign: torch.zeros(1)}, "") or {}).get(
            "image_model"
        ) != "sana"
    assert model_detection.detect_unet_config(plain, "")["image_model"] == "sana"


def test_a_sana_file_with_a_hole_is_called_so(file):
    tensors = load_file(file("diffusion_models", "sana.safetensors"))
    del tensors["caption_projection.linear_1.weight"]
    with pytest.raises(ValueError, match=r"this SANA file: the tensor caption_projection\.linear_1\.weight is missing"):
        model_detection.detect_unet_config(tensors, "")


def test_other_vaes_pass_through():
    vae = sd.VAE({"pixel_space_vae": torch.tensor(1.0)}, None, None, torch.float32)
    assert type(vae.first_stage_model).__name__ == "PixelspaceConversionVAE"
    assert vae.downscale_ratio == 1


def test_a_host_that_knows_sana_is_left_alone(monkeypatch):
    monkeypatch.setattr(model_base, "Sana", object, raising=False)
    monkeypatch.setattr(supported_models, "models", [])
    registration.install()
    assert supported_models.models == []


def test_a_hook_that_fails_costs_one_line_and_no_loader(monkeypatch, caplog, file):
    monkeypatch.delattr(model_detection, "detect_unet_config")
    with caplog.at_level(logging.WARNING, logger="sana"):
        registration.install()
    assert [record.name for record in caplog.records] == ["sana"]
    assert "Load SANA" in caplog.text
    assert isinstance(loading.load_model(file("diffusion_models", "sana.safetensors")).model, model.SanaModel)
