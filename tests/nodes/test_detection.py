"""Every layout of a SANA file becomes the same model; a file that does not fit is refused by the key's name."""

import json
from pathlib import Path

import pytest
import torch
from e2e.comfyui import REASON
from safetensors.torch import load_file, save_file

detection = pytest.importorskip("sana_pack.nodes.bridge.detection", reason=REASON)
loading = pytest.importorskip("sana_pack.nodes.bridge.loading", reason=REASON)
config = pytest.importorskip("sana_pack.sana_core.config", reason=REASON)
errors = pytest.importorskip("sana_pack.sana_core.errors", reason=REASON)
sd = pytest.importorskip("comfy.sd", reason=REASON)

LAYOUTS = ["sana.safetensors", "sana_prefixed.safetensors", "sana.pth"]


@pytest.fixture(scope="module")
def plain(file):
    return load_file(file("diffusion_models", "sana.safetensors"))


@pytest.mark.parametrize("load", [sd.load_diffusion_model, loading.load_model])
@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_load_the_same_tensors(file, plain, name, load):
    found = load(file("diffusion_models", name)).model.diffusion_model.state_dict()
    assert found.keys() == plain.keys()
    assert all(torch.equal(found[key], plain[key].reshape(found[key].shape)) for key in plain)


def test_loaders_agree_on_types(file):
    host, own = (
        load(file("diffusion_models", "sana.safetensors")) for load in (sd.load_diffusion_model, loading.load_model)
    )
    assert host.model_dtype() == own.model_dtype()
    assert host.model.manual_cast_dtype == own.model.manual_cast_dtype
    assert (host.load_device, host.offload_device, host.model_size()) == (
        own.load_device,
        own.offload_device,
        own.model_size(),
    )
    assert len(own.cached_patcher_init) == 2


def test_the_copy_factory_gives_the_same_model(file):
    patcher = loading.load_model(file("diffusion_models", "sana_prefixed.safetensors"), "4k", torch.float32)
    function, arguments = patcher.cached_patcher_init
    copy = function(*arguments, disable_dynamic=True)
    assert copy.model.diffusion_model.config == patcher.model.diffusion_model.config


def test_position_class(file):
    original = loading.load_model(file("diffusion_models", "sana_2k.pth")).model
    assert original.diffusion_model.config.position == config.POSITIONS["2k"]
    chosen = loading.load_model(file("diffusion_models", "sana.safetensors"), "4k").model
    assert chosen.diffusion_model.config.position == config.POSITIONS["4k"]
    assert (chosen.model_sampling.shift, chosen.model_config.sampling_defaults.width) == (6.0, 4096)


def test_stated_sampling(file):
    for load in (sd.load_diffusion_model, loading.load_model):
        model = load(file("diffusion_models", "sana_stated.safetensors")).model
        expected = config.SamplingDefaults(steps=5, guidance_scale=3.0, shift=2.0, width=128, height=96)
        assert (model.model_config.sampling_defaults, model.model_sampling.shift) == (expected, 2.0)


@pytest.mark.parametrize("damage, said", [
    (lambda t: t.pop("transformer_blocks.1.attn2.to_k.weight"), "1 missing (transformer_blocks.1.attn2.to_k.weight)"),
    (lambda t: t.update({"transformer_blocks.0.extra": torch.zeros(1)}), "1 unexpected (transformer_blocks.0.extra)"),
    (lambda t: t.update({"proj_out.bias": torch.zeros(31)}), "proj_out.bias (31,) instead of (32,)"),
])  # fmt: skip
def test_a_key_that_does_not_fit_is_named(tmp_path, plain, damage, said):
    tensors = dict(plain)
    damage(tensors)
    save_file(tensors, tmp_path / "damaged.safetensors")
    for load in (sd.load_diffusion_model, loading.load_model):
        with pytest.raises(errors.CheckpointError) as raised:
            load(str(tmp_path / "damaged.safetensors"))
        assert said in str(raised.value)
    assert str(raised.value).startswith(str(tmp_path / "damaged.safetensors"))


def test_what_a_saved_file_could_not_tell_is_saved_with_it(tmp_path, file):
    for name, variant in (("sana_2k.pth", None), ("sana_stated.safetensors", None), ("sana.safetensors", "512")):
        patcher = loading.load_model(file("diffusion_models", name), variant)
        sd.save_checkpoint(str(tmp_path / "saved.safetensors"), patcher)
        for load in (sd.load_diffusion_model, loading.load_model):
            again = load(str(tmp_path / "saved.safetensors"))
            assert again.model.diffusion_model.config == patcher.model.diffusion_model.config
            assert again.model.model_config.sampling_defaults == patcher.model.model_config.sampling_defaults


def test_a_plain_model_is_saved_without_additions(file, plain):
    patcher = loading.load_model(file("diffusion_models", "sana.safetensors"))
    assert set(patcher.state_dict_for_saving()) == {f"model.diffusion_model.{key}" for key in plain}


LAYER = "transformer_blocks.0.attn1.to_q"


def packed(plain, **changes):
    """The model with one layer in nvfp4; changes: other tensors of that layer, None for one that is missing."""
    mark = torch.tensor(list(json.dumps({"format": "nvfp4"}).encode()), dtype=torch.uint8)
    own = {
        "weight": torch.zeros(224, 112, dtype=torch.uint8),
        "weight_scale": torch.ones(256, 16).to(torch.float8_e4m3fn),
        "weight_scale_2": torch.ones(()),
        "comfy_quant": mark,
    }
    own.update(changes)
    layer = {f"{LAYER}.{name}": tensor for name, tensor in own.items() if tensor is not None}
    return {**{key: tensor for key, tensor in plain.items() if key != f"{LAYER}.weight"}, **layer}


def test_a_whole_quantised_layer_passes_the_check(plain):
    tensors = packed(plain)
    weights = detection.canonical_weights(tensors, detection.detect(tensors)["config"])
    assert weights.keys() == tensors.keys()


@pytest.mark.parametrize("changes, said", [
    ({"weight": None}, f"1 missing ({LAYER}.weight)"),
    ({"weight_scale": None}, f"1 missing ({LAYER}.weight_scale)"),
    ({"weight": torch.zeros(224, 100, dtype=torch.uint8)}, f"{LAYER}.weight (224, 100) instead of (224, 112) (nvfp4)"),
    ({"other": torch.zeros(1)}, f"1 unexpected ({LAYER}.other)"),
])  # fmt: skip
@pytest.mark.parametrize("load", [sd.load_diffusion_model, loading.load_model])
def test_a_quantised_layer_that_does_not_fit_is_named(tmp_path, plain, load, changes, said):
    save_file(packed(plain, **changes), tmp_path / "packed.safetensors")
    with pytest.raises(errors.CheckpointError) as raised:
        load(str(tmp_path / "packed.safetensors"))
    assert said in str(raised.value)


BAD_SAMPLING = ["not json", '{"steps": 5', "[1]", '{"steps": "many"}', '{"steps": 0}', '{"shift": -1}', "[" * 100_000]


@pytest.mark.parametrize("content", BAD_SAMPLING)
@pytest.mark.parametrize("load", [sd.load_diffusion_model, loading.load_model])
def test_unreadable_sampling_is_refused(tmp_path, plain, load, content):
    save_file(plain, tmp_path / "stated.safetensors", {"sampling": content})
    with pytest.raises(errors.CheckpointError, match="sampling"):
        load(str(tmp_path / "stated.safetensors"))


@pytest.mark.parametrize("load", [sd.load_diffusion_model, loading.load_model])
def test_sampling_is_read_as_by_the_library(tmp_path, plain, load):
    """Numbers as other tools write them: "20", 20.0, null."""
    said = {"steps": "7", "width": 128.0, "shift": "2.5", "guidance_scale": None}
    save_file(plain, tmp_path / "stated.safetensors", {"sampling": json.dumps(said)})
    model = load(str(tmp_path / "stated.safetensors")).model
    found, expected = model.model_config.sampling_defaults, config.SamplingDefaults(steps=7, width=128, shift=2.5)
    assert found == expected and (type(found.steps), type(found.width)) == (int, int)
    assert model.model_sampling.shift == 2.5


def test_files_that_are_not_sana_are_refused(tmp_path, file):
    save_file({"double_blocks.0.img_attn.qkv.weight": torch.zeros(2, 2)}, tmp_path / "flux.safetensors")
    (tmp_path / "page.safetensors").write_text("<!doctype html>")
    (tmp_path / "cut.safetensors").write_bytes(Path(file("diffusion_models", "sana.safetensors")).read_bytes()[:5000])
    for path, said in (
        (tmp_path / "flux.safetensors", "a Flux model"),
        (tmp_path / "page.safetensors", "a web page"),
        (tmp_path / "cut.safetensors", "truncated"),
        (file("vae", "dcae.safetensors"), "a DC-AE autoencoder"),
        (file("text_encoders", "gemma.safetensors"), "a Gemma-2 text encoder"),
    ):
        with pytest.raises(errors.CheckpointError, match=said):
            loading.load_model(str(path))
