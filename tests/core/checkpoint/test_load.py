"""Every layout gives the same tensors; what does not fit is refused by name."""

import dataclasses
import json
import logging

import pytest
import tiny
import torch
from safetensors.torch import save_file

from sana_core.checkpoint.canonical import canonical_autoencoder, canonical_transformer
from sana_core.checkpoint.key_maps import (
    AUTOENCODER_MIT,
    GUIDED_TIME_EMBED_NVLABS,
    TIME_EMBED_NVLABS,
    TRANSFORMER_NVLABS,
    foreign_key,
)
from sana_core.checkpoint.load import load_autoencoder, load_transformer
from sana_core.config import POSITIONS
from sana_core.errors import CheckpointError, InputError
from sana_core.text.load import load_text_encoder

TRANSFORMERS = {
    "sana": {},
    "sana06": {"hidden_size": 288},
    "sana15": {"qk_norm": True},
    "sprint": {"hidden_size": 288, "qk_norm": True, "guidance_embed": True},
}


def nvlabs(model):
    guided = model.config.guidance_embed
    key_map = TRANSFORMER_NVLABS + (GUIDED_TIME_EMBED_NVLABS if guided else TIME_EMBED_NVLABS)
    return joined(model.state_dict(), key_map) | {"pos_embed": torch.zeros(1, 1024, model.config.hidden_size)}


def joined(tensors, key_map):
    """Canonical tensors under foreign names: parts of a fused tensor joined, 1x1 convolutions as kernels."""
    parts: dict[str, list[torch.Tensor]] = {}
    for key, tensor in tensors.items():
        parts.setdefault(foreign_key(key, key_map), []).append(tensor)
    whole = {key: torch.cat(found) for key, found in parts.items()}
    return {key: t[:, :, None, None] if t.ndim == 2 and key.endswith("conv.weight") else t for key, t in whole.items()}


def assert_same(model, expected):
    assert dataclasses.replace(model.config, fp16_trained=False) == expected.config  # see test_precision.py
    for key, tensor in expected.state_dict().items():
        assert torch.equal(model.state_dict()[key], tensor), key


@pytest.mark.parametrize("variant", TRANSFORMERS)
def test_transformer_layouts(tmp_path, variant):
    model = tiny.transformer(**TRANSFORMERS[variant])
    canonical = model.state_dict()
    layouts = {
        "diffusers": canonical,
        "comfyui": {"model.diffusion_model." + key: t for key, t in canonical.items()} | {"vae.x": torch.ones(1)},
        "trainer": {"module." + key: t for key, t in nvlabs(model).items()},
        "nvlabs": nvlabs(model),
    }
    for name, tensors in layouts.items():
        save_file({key: t.contiguous() for key, t in tensors.items()}, tmp_path / f"{name}.safetensors")
        assert_same(load_transformer(tmp_path / f"{name}.safetensors"), model)
    torch.save({"state_dict": nvlabs(model)}, tmp_path / "model.pth")
    assert_same(load_transformer(tmp_path / "model.pth"), model)


@pytest.mark.parametrize("lite", [False, True])
def test_autoencoder_layouts(tmp_path, lite):
    model = tiny.autoencoder(lite=lite, depth=2)
    for name, tensors in {"diffusers": model.state_dict(), "mit": mit(model)}.items():
        save_file({key: t.contiguous() for key, t in tensors.items()}, tmp_path / f"{name}.safetensors")
        loaded = load_autoencoder(tmp_path / f"{name}.safetensors")
        assert [(s.depth, s.block) for s in loaded.config.decoder if s.depth] == [
            (s.depth, s.block) for s in model.config.decoder if s.depth
        ]
        for key, tensor in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[key], tensor), key


def mit(model):
    return joined(model.state_dict(), AUTOENCODER_MIT)


def test_dtype_and_device(tmp_path):
    save_file(tiny.transformer().state_dict(), tmp_path / "m.safetensors")
    assert load_transformer(tmp_path / "m.safetensors", dtype=torch.bfloat16).proj_out.weight.dtype == torch.bfloat16
    assert load_transformer(tmp_path / "m.safetensors", device="meta").proj_out.weight.is_meta


@pytest.mark.parametrize("stored, asked, expected", [
    (torch.float16, None, torch.bfloat16), (torch.float32, torch.float16, torch.bfloat16),
    (torch.float32, None, torch.float32),
    (torch.bfloat16, None, torch.bfloat16), (torch.float32, torch.float64, torch.float64),
])  # fmt: skip
def test_an_autoencoder_never_runs_in_float16(tmp_path, caplog, stored, asked, expected):
    save_file(
        {key: tensor.to(stored) for key, tensor in tiny.autoencoder().state_dict().items()},
        tmp_path / "vae.safetensors",
    )
    with caplog.at_level(logging.INFO, "sana"):
        model = load_autoencoder(tmp_path / "vae.safetensors", dtype=asked)
    assert model.decoder.conv_in.weight.dtype == expected
    assert ("DC-AE runs in bfloat16 instead of float16" in caplog.text) == (torch.float16 in (stored, asked))


@pytest.mark.parametrize("tokens, variant", [(256, "512"), (1024, "1024"), (4096, "2k"), (16384, "4k")])
def test_position_class_from_the_original_file(tmp_path, tokens, variant):
    tensors = nvlabs(tiny.transformer()) | {"pos_embed": torch.zeros(1, tokens, 224)}
    torch.save({"state_dict": tensors}, tmp_path / "m.pth")
    assert load_transformer(tmp_path / "m.pth").config.position == POSITIONS[variant]


def test_position_class_by_choice_and_by_metadata(tmp_path):
    model = tiny.transformer(position=POSITIONS["4k"])
    save_file(model.state_dict(), tmp_path / "bare.safetensors")
    save_file(
        model.state_dict(), tmp_path / "stated.safetensors", {"config": json.dumps(dataclasses.asdict(model.config))}
    )
    assert load_transformer(tmp_path / "bare.safetensors").config.position is None
    assert load_transformer(tmp_path / "bare.safetensors", variant="4k").config == model.config
    assert load_transformer(tmp_path / "stated.safetensors").config == model.config
    with pytest.raises(CheckpointError, match="unknown variant"):
        load_transformer(tmp_path / "bare.safetensors", variant="8k")


def test_position_class_that_comfyui_has_saved(tmp_path):
    """ComfyUI drops metadata when it saves; the nodes write a tensor in its place, which is no weight."""
    model = tiny.transformer(position=POSITIONS["2k"])
    text = json.dumps({"config": dataclasses.asdict(model.config)}).encode()
    tensors = model.state_dict() | {"sana_config": torch.tensor(list(text), dtype=torch.uint8)}
    save_file({"model.diffusion_model." + key: t for key, t in tensors.items()}, tmp_path / "m.safetensors")
    assert_same(load_transformer(tmp_path / "m.safetensors"), model)
    assert load_transformer(tmp_path / "m.safetensors", device="meta").config == model.config


def test_a_float16_file_keeps_the_clamp(tmp_path):
    save_file({key: t.half() for key, t in tiny.transformer().state_dict().items()}, tmp_path / "m.safetensors")
    assert load_transformer(tmp_path / "m.safetensors", dtype=torch.float32).config.fp16_trained


NETWORKS = {
    "diffusers": (lambda: tiny.transformer().state_dict(), load_transformer),
    "nvlabs": (lambda: nvlabs(tiny.transformer(qk_norm=True)), load_transformer),
    "sprint": (lambda: nvlabs(tiny.transformer(qk_norm=True, guidance_embed=True)), load_transformer),
    "dcae": (lambda: tiny.autoencoder().state_dict(), load_autoencoder),
    "dcae mit": (lambda: mit(tiny.autoencoder()), load_autoencoder),
}


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_a_key_too_few_too_many_or_of_another_shape_is_named(tmp_path, network):
    """Every single key of the file, taken away or reshaped, is refused under the name it has in the file."""
    make, load = NETWORKS[network]
    whole = {key: t for key, t in make().items() if key != "pos_embed"}
    path = tmp_path / "m.safetensors"

    def refused(tensors, key):
        save_file({name: t.contiguous() for name, t in tensors.items()}, path)
        with pytest.raises(CheckpointError) as error:
            load(path, device="meta")
        assert key in str(error.value), (key, str(error.value)[:300])

    refused(whole | {"transformer_blocks.0.attn9.weight": torch.ones(1)}, "transformer_blocks.0.attn9.weight")
    for key in list(whole)[:: max(1, len(whole) // 40)]:
        refused({name: t for name, t in whole.items() if name != key}, key)
        refused(whole | {key: torch.zeros(whole[key].shape[0] + 3, *whole[key].shape[1:])}, key)


OTHERS = {
    "a Stable Diffusion or SDXL model": {
        "model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3),
        "first_stage_model.decoder.conv_in.weight": (512, 4, 3, 3),
    },
    "a Flux model": {"double_blocks.0.img_attn.qkv.weight": (9216, 3072)},
    "a Lumina 2 model": {"cap_embedder.0.weight": (2304,), "layers.0.attention.qkv.weight": (4096, 2304)},
    "a Gemma-2 text encoder": {"model.layers.0.post_feedforward_layernorm.weight": (2304,)},
    "a LoRA": {"transformer.transformer_blocks.0.attn1.to_q.lora_A.weight": (4, 224)},
    "an autoencoder of another family": {
        "decoder.conv_in.weight": (512, 16, 3, 3),
        "decoder.up_blocks.0.resnets.0.conv1.weight": (8, 8, 3, 3),
    },
    "a model of an unknown kind": {"w": (3,)},
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_models_are_refused_by_kind(tmp_path, kind):
    save_file({key: torch.zeros(shape) for key, shape in OTHERS[kind].items()}, tmp_path / "m.safetensors")
    for load in (load_transformer, load_autoencoder):
        with pytest.raises(CheckpointError, match=kind):
            load(tmp_path / "m.safetensors")


def test_the_wrong_slot(tmp_path):
    save_file(tiny.transformer().state_dict(), tmp_path / "dit.safetensors")
    save_file(tiny.autoencoder().state_dict(), tmp_path / "vae.safetensors")
    with pytest.raises(CheckpointError, match="expected a SANA transformer, found a DC-AE autoencoder"):
        load_transformer(tmp_path / "vae.safetensors")
    with pytest.raises(CheckpointError, match="expected the DC-AE autoencoder of SANA, found a SANA transformer"):
        load_autoencoder(tmp_path / "dit.safetensors")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("load", [load_transformer, load_autoencoder, load_text_encoder])
def test_a_gpu_where_there_is_none(tmp_path, load):
    with pytest.raises(InputError, match="finds 0 CUDA GPUs"):
        load(tmp_path / "any.safetensors", device="cuda")


def test_another_dc_ae_build_is_refused(tmp_path):
    tensors = dict(tiny.autoencoder().state_dict()) | {"decoder.up_blocks.0.1.norm.running_mean": torch.zeros(16)}
    save_file(tensors, tmp_path / "vae.safetensors")
    with pytest.raises(CheckpointError, match=r"in-1\.0 or mix-1\.0"):
        load_autoencoder(tmp_path / "vae.safetensors")


def test_a_configuration_that_cannot_be(tmp_path):
    save_file(
        tiny.transformer().state_dict(), tmp_path / "m.safetensors", {"config": '{"hidden_size": "wide", "depth": -1}'}
    )
    with pytest.raises(CheckpointError, match=r"m\.safetensors"):
        load_transformer(tmp_path / "m.safetensors")


def test_unused_parts_of_an_original_file_are_dropped():
    tensors = nvlabs(tiny.transformer()) | {
        "y_embedder.y_embedding": torch.zeros(300, 96),
        "mask_token": torch.zeros(1),
    }
    assert "pos_embed" not in canonical_transformer(tensors).tensors
    assert canonical_transformer(tensors).tensors.keys() == tiny.transformer().state_dict().keys()
    assert (
        canonical_autoencoder({"vae." + key: t for key, t in tiny.autoencoder().state_dict().items()}).prefix == "vae."
    )


@pytest.mark.parametrize("suffix", ["safetensors", "pth", "bin"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_defaults_of_the_process_change_nothing(tmp_path, suffix, dtype):
    """torch.set_default_device and set_default_dtype, as many scripts set them."""
    networks = {"dit": (tiny.transformer(), load_transformer), "vae": (tiny.autoencoder(), load_autoencoder)}
    for name, (network, _) in networks.items():
        save_file(network.state_dict(), tmp_path / f"{name}.safetensors")
        torch.save(network.state_dict(), tmp_path / f"{name}.pth")
        torch.save(network.state_dict(), tmp_path / f"{name}.bin", _use_new_zipfile_serialization=False)
    torch.set_default_device("meta")
    torch.set_default_dtype(dtype)
    try:
        loaded = {name: load(tmp_path / f"{name}.{suffix}") for name, (_, load) in networks.items()}
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    for name, (network, _) in networks.items():
        found = loaded[name].state_dict()
        assert all(torch.equal(found[key], tensor) for key, tensor in network.state_dict().items())
