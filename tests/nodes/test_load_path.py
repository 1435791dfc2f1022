"""The pack's loaders: one reader for all files, one detection, the host's own loader with its options."""

import json
import shutil
from dataclasses import asdict

import folder_paths
import pytest
import tiny_text
import torch
from comfy import model_detection, ops, utils
from e2e import tiny_files
from safetensors.torch import load_file, save_file
from sana_pack.nodes import load as load_nodes
from sana_pack.nodes.bridge import control, detection, loading, paths, reading, text_encoder
from sana_pack.nodes.bridge import vae as vae_bridge
from sana_pack.sana_core import errors

LOADERS = {
    "diffusion_models/sana.safetensors": loading.load_model,
    "vae/dcae.safetensors": vae_bridge.load_vae,
    "controlnet/control.safetensors": control.load_control,
    "text_encoders/gemma.safetensors": text_encoder.load_text_encoder,
}
WRITERS = {
    "safetensors called .pth": ("x.pth", None),
    "safetensors called .ckpt": ("x.ckpt", None),
    "safetensors without a suffix": ("x", None),
    "pickle called .safetensors": ("x.safetensors", lambda tensors: {"state_dict": tensors}),
    "plain pickle": ("x.bin", lambda tensors: tensors),
    "model and epoch": ("x.pth", lambda tensors: {"model": tensors, "epoch": 3}),
    "ema and epoch": ("x.pth", lambda tensors: {"state_dict_ema": tensors, "epoch": 3}),
}


def written(source, folder, how):
    """A copy of a model file, written as another tool does it."""
    name, wrap = WRITERS[how]
    if wrap is None:
        shutil.copy(source, folder / name)
    else:
        tensors = load_file(source)
        if "spiece_model" in tensors:  # pickles have no metadata, in which the file of a tiny Gemma-2 states its sizes
            config = json.dumps(asdict(tiny_text.config(hidden_size=tiny_files.TEXT_WIDTH)))
            tensors["gemma_config"] = torch.tensor(list(config.encode()), dtype=torch.uint8)
        torch.save(wrap(tensors), folder / name)
    return folder / name


def state(loaded):
    """The weights of whatever a loader gives."""
    if hasattr(loaded, "control_model"):
        return loaded.control_model.state_dict()
    return loaded.get_sd() if hasattr(loaded, "get_sd") else loaded.model.diffusion_model.state_dict()


@pytest.mark.parametrize("how", WRITERS)
@pytest.mark.parametrize("source", LOADERS)
def test_what_the_command_line_reads_the_nodes_read(models, tmp_path, source, how):
    path = written(models / source, tmp_path, how)
    found, expected = state(LOADERS[source](str(path))), state(LOADERS[source](str(models / source)))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in found)


def test_no_loader_reads_by_the_hosts_rules(models, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a second reader")

    monkeypatch.setattr(utils, "load_torch_file", refuse)
    for source, load in LOADERS.items():
        load(str(models / source))


@pytest.mark.parametrize("source", LOADERS)
@pytest.mark.parametrize(
    "content", [b"", b"<!doctype html>", b"PK\x03\x04 not a zip", b"\x80\x02 not a pickle", b"GGUF"]
)
def test_what_is_no_model_file_is_said_in_one_line(tmp_path, source, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(errors.CheckpointError) as raised:
        LOADERS[source](str(path))
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 1000


def test_under_dynamic_vram_the_tensors_are_the_hosts(models, monkeypatch):
    """It streams those from the disk. What the file holds and states is still read by sana_core's rules."""
    path, seen = models / "diffusion_models" / "sana.safetensors", []
    monkeypatch.setattr("comfy.memory_management.aimdo_enabled", True)
    monkeypatch.setattr(utils, "load_safetensors", lambda file: (seen.append(file) or load_file(file), {}))
    assert reading.read_model(str(path)).tensors.keys() == load_file(path).keys() and seen == [str(path)]
    assert reading.read_model(str(models / "diffusion_models" / "sana.pth")).tensors and len(seen) == 1


def test_without_mapping_the_tensors_are_copies(models, monkeypatch):
    path = str(models / "diffusion_models" / "sana.pth")
    mapped = reading.read_model(path).tensors
    monkeypatch.setattr(utils, "DISABLE_MMAP", True)
    copied = reading.read_model(path).tensors
    assert all(torch.equal(copied[key], mapped[key]) for key in mapped)
    sizes = {key: tensor.untyped_storage().nbytes() for key, tensor in copied.items()}
    assert all(sizes[key] == copied[key].nbytes for key in copied)


# --- one detection, the host's loader


@pytest.mark.parametrize("name", ["sana.safetensors", "sana_prefixed.safetensors", "sana_2k.pth"])
def test_a_model_is_looked_at_once(models, monkeypatch, name):
    calls = {"detect": 0, "canonical": 0, "networks": 0}

    def counted(what, function):
        def call(*arguments, **options):
            calls[what] += 1
            return function(*arguments, **options)

        return call

    monkeypatch.setattr(detection, "detect_transformer", counted("detect", detection.detect_transformer))
    monkeypatch.setattr(detection, "canonical_transformer", counted("canonical", detection.canonical_transformer))
    monkeypatch.setattr(detection, "SanaTransformer", counted("networks", detection.SanaTransformer))
    loading.load_model(str(models / "diffusion_models" / name))
    assert calls == {"detect": 1, "canonical": 2, "networks": 1}  # the second one is of the weights that the host loads


class CustomOps(ops.manual_cast):
    """Layers of another pack, such as ComfyUI-GGUF's."""

    class Linear(ops.manual_cast.Linear):
        pass


def test_the_hosts_options_come_through(models):
    path = str(models / "diffusion_models" / "sana.safetensors")
    custom = loading.load_model(path, model_options={"custom_operations": CustomOps})
    assert isinstance(custom.model.diffusion_model.proj_out, CustomOps.Linear)
    fast = loading.load_model(path, dtype=torch.float8_e4m3fn, model_options={"fp8_optimizations": True})
    assert fast.model.model_config.optimizations["fp8"] and fast.model_dtype() == torch.float8_e4m3fn
    function, arguments = custom.cached_patcher_init
    copy = function(*arguments, disable_dynamic=True)
    assert isinstance(copy.model.diffusion_model.proj_out, CustomOps.Linear)


@pytest.mark.parametrize("damage", [None, "transformer_blocks.0.extra"])
def test_the_hosts_detection_is_its_own_again_afterwards(models, tmp_path, damage):
    host = model_detection.model_config_from_unet
    tensors = load_file(models / "diffusion_models" / "sana.safetensors")
    save_file({**tensors, **({damage: torch.zeros(1)} if damage else {})}, tmp_path / "x.safetensors")
    try:
        loading.load_model(str(tmp_path / "x.safetensors"))
    except errors.CheckpointError as error:
        assert damage in str(error)
    assert model_detection.model_config_from_unet is host


# --- names in messages


def test_an_error_begins_with_the_name_in_the_list(models, tmp_path, monkeypatch):
    folder = tmp_path / "a rather long folder" / "of models"
    (folder / "sub").mkdir(parents=True)
    for kind in ("diffusion_models", "vae", "text_encoders"):
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, ([str(folder)], {".safetensors"}))
    (folder / "sub" / "page.safetensors").write_text("<!doctype html>")
    shutil.copy(models / "controlnet" / "control.safetensors", folder / "sub" / "other.safetensors")
    for load in (
        load_nodes.load_clip,
        load_nodes.load_autoencoder,
        lambda name: load_nodes.load_transformer(name, "auto", "default", "auto", "auto"),  # the widgets' defaults
    ):
        for name in ("sub/page.safetensors", "sub/other.safetensors"):
            with pytest.raises(errors.CheckpointError) as raised:
                load(name)
            said = str(raised.value)
            assert said.startswith(name) and str(tmp_path) not in said


@pytest.mark.parametrize("name", ["x\x1b[31m.safetensors", "a" * 5000])
def test_a_name_that_is_no_choice_is_shown_in_one_short_line(name):
    said = paths.choice_error("diffusion_models", name)
    assert said.isprintable() and len(said) < 1000
    assert load_nodes.SanaNativeLoadModel.validate_inputs(name) == said
    assert load_nodes.SanaNativeLoadVAE.validate_inputs("sana_nano_vae.safetensors") is True
