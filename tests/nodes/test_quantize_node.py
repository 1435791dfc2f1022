"""The node that makes quantised files, and GGUF files in the lists of the loaders."""

import os
from pathlib import Path

import comfy.model_management
import folder_paths
import pytest
import tiny
import tiny_text
import torch
from comfy.model_management import InterruptProcessingException
from safetensors.torch import save_file
from sana_pack.nodes import load, quantize
from sana_pack.nodes.bridge import new_files, paths
from sana_pack.nodes.bridge.loading import load_model
from sana_pack.nodes.bridge.text_encoder import load_text_encoder
from sana_pack.sana_core.errors import CheckpointError, InputError

OFF = {"embedding": "auto", "native_size": "auto", "trained_precision": "auto", "prompts": "",
       "prompts_text_encoder": "none", "overwrite": False}  # fmt: skip


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Folders of models with a tiny transformer and a tiny Gemma-2; models/unet comes first, as in ComfyUI."""
    text = tiny_text.config()
    names = {"diffusion_models": ["unet", "diffusion_models"], "text_encoders": ["clip", "text_encoders"]}
    for kind, own in names.items():
        for name in own:
            (tmp_path / name).mkdir()
        entry = ([str(tmp_path / name) for name in own], {".safetensors"})
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, entry)
    folder_paths.filename_list_cache.clear()
    model = tiny.transformer(caption_channels=text.hidden_size)
    save_file(model.state_dict(), tmp_path / "diffusion_models" / "tiny.safetensors")
    save_file(tiny_text_file(text), tmp_path / "text_encoders" / "gemma.safetensors")
    yield tmp_path
    folder_paths.filename_list_cache.clear()


def tiny_text_file(text):
    import json
    from dataclasses import asdict

    tensors = {f"model.{key}": tensor for key, tensor in tiny_text.state_dict(text).items()}
    tensors["spiece_model"] = torch.frombuffer(bytearray(tiny_text.spiece()), dtype=torch.uint8)
    stated = json.dumps(asdict(text)).encode()
    return tensors | {"gemma_config": torch.tensor(list(stated), dtype=torch.uint8)}


def made(model="tiny.safetensors", format="int8", filename="", text_encoder="none", **changes):
    return quantize.SanaNativeQuantize.execute(model, text_encoder, format, filename, **{**OFF, **changes}).args[0]


def test_one_file_is_chosen(folders):
    for model, text_encoder in (("none", "none"), ("tiny.safetensors", "gemma.safetensors")):
        with pytest.raises(InputError, match="choose either a model or a text encoder"):
            made(model, text_encoder=text_encoder)


@pytest.mark.parametrize("format", ["int8", "nvfp4", "gguf-q8_0"])
def test_the_new_file_lies_beside_the_others_and_loads(folders, format):
    ending = "gguf" if format.startswith("gguf") else "safetensors"
    report = made(format=format)
    assert report.startswith(f"diffusion_models/tiny_{format}.{ending}\n") and "attn1.to_q" in report
    path = folders / "diffusion_models" / f"tiny_{format}.{ending}"
    assert load_model(str(path)).model.diffusion_model.config.hidden_size == 224
    assert path.name in paths.model_files("diffusion_models")
    assert path.name in load.SanaNativeLoad.define_schema().inputs[0].options
    listed = folder_paths.get_filename_list("diffusion_models")
    assert (path.name in listed) == (ending == "safetensors")  # the host's own loaders cannot read GGUF


def test_a_text_encoder(folders):
    report = made("none", "fp8", "small", text_encoder="gemma.safetensors", embedding="int8")
    assert report.startswith("text_encoders/small.safetensors\n")
    load_text_encoder(str(folders / "text_encoders" / "small.safetensors"))


def test_prompts_measure_the_inputs(folders):
    options = {"prompts": "a red apple\n\n a blue car ", "prompts_text_encoder": "gemma.safetensors"}
    made(format="fp8", native_size="512", **options)
    network = load_model(str(folders / "diffusion_models" / "tiny_fp8.safetensors")).model.diffusion_model
    assert network.blocks[0].attn1.to_q.input_scale > 0
    with pytest.raises(InputError, match="int8 stores no scale"):
        made(prompts="a red apple")
    with pytest.raises(InputError, match="needs a text encoder"):
        made(format="fp8", filename="other", prompts="a red apple")


def test_a_file_that_is_there_stays(folders):
    made()
    path = folders / "diffusion_models" / "tiny_int8.safetensors"
    before = path.stat().st_mtime_ns
    assert "is there already: nothing was made" in made()
    assert path.stat().st_mtime_ns == before
    assert "attn1" in made(overwrite=True) and path.stat().st_mtime_ns != before


@pytest.mark.parametrize("name", ["../out", "/out", "a/../../out", "C:\\out", "..", "out.gguf", " . ",
    "C:out", "\\\\there\\out", "a\nb", "a\x1b[31m", ".out", "sub/out", "a" * 5000 + "?"])  # fmt: skip
def test_no_file_is_made_elsewhere(folders, name):
    before = sorted(folders.rglob("*"))
    with pytest.raises(InputError, match=r"the new file is called|there is no folder") as raised:
        made(filename=name)
    assert str(raised.value).isprintable() and len(str(raised.value)) < 1000
    assert sorted(folders.rglob("*")) == before and not Path(folders.parent / "out.safetensors").exists()


def test_what_cannot_be_quantised_is_refused(folders):
    save_file({"a": torch.zeros(2)}, folders / "diffusion_models" / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"^other\.safetensors: expected a SANA transformer or a Gemma-2"):
        made("other.safetensors")
    made()
    with pytest.raises(CheckpointError, match="quantised already"):
        made("tiny_int8.safetensors")


def test_a_file_in_the_folder_of_the_other_kind_is_refused(folders):
    (folders / "diffusion_models" / "tiny.safetensors").rename(folders / "text_encoders" / "tiny.safetensors")
    (folders / "text_encoders" / "gemma.safetensors").rename(folders / "diffusion_models" / "gemma.safetensors")
    before = sorted(folders.rglob("*"))
    for files in ({"model": "gemma.safetensors"}, {"model": "none", "text_encoder": "tiny.safetensors"}):
        with pytest.raises(InputError, match=r"^\w+\.safetensors is .*: move it to the other folder"):
            made(**files)
    assert sorted(folders.rglob("*")) == before


def test_a_text_encoder_without_tokenizer_is_refused(folders):
    """A file of it could be loaded nowhere."""
    tensors = tiny_text_file(tiny_text.config())
    del tensors["spiece_model"]
    save_file(tensors, folders / "text_encoders" / "bare.safetensors")
    with pytest.raises(InputError, match=r"^bare\.safetensors is a Gemma-2 without tokenizer"):
        made("none", text_encoder="bare.safetensors")


def test_a_file_that_would_hide_the_new_one(folders):
    """Loaders take the first of two files of one name."""
    hiding = folders / "unet" / "tiny_int8.safetensors"
    hiding.write_bytes(b"something else")
    assert "is there already: nothing was made" in made()
    with pytest.raises(InputError, match=r"is there already, as .*: choose another filename"):
        made(overwrite=True)
    assert hiding.read_bytes() == b"something else"
    assert not (folders / "diffusion_models" / "tiny_int8.safetensors").exists()


def test_a_folder_that_can_be_written_is_taken(folders, monkeypatch):
    monkeypatch.setattr(os, "access", lambda folder, mode: Path(folder).name == "unet")
    made()
    assert (folders / "unet" / "tiny_int8.safetensors").is_file()
    monkeypatch.setattr(os, "access", lambda folder, mode: False)
    with pytest.raises(InputError, match="no folder models/diffusion_models that ComfyUI can write"):
        made(filename="other")


def test_a_subfolder_that_is_there(folders):
    (folders / "diffusion_models" / "sub").mkdir()
    assert made(filename="sub\\out").startswith("diffusion_models/sub/out.safetensors\n")
    assert str(Path("sub", "out.safetensors")) in paths.model_files("diffusion_models")


def test_gguf_files_are_listed_once_in_the_folders_of_now(folders, monkeypatch):
    """Other packs replace the host's lists of folders, or let the host list GGUF files too."""
    (folders / "other").mkdir()
    (folders / "other" / "x.gguf").write_bytes(b"GGUF")
    entry = ([str(folders / "other")], {".safetensors", ".gguf"})
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "diffusion_models", entry)
    assert paths.model_files("diffusion_models")[0] == "x.gguf"
    assert paths.model_files("diffusion_models").count("x.gguf") == 1


def test_stock_loaders_do_not_offer_gguf(folders):
    import nodes as host_nodes  # the host's, once it has been started

    for kind in paths.GGUF_KINDS:
        (folders / kind / "x.gguf").write_bytes(b"GGUF")
        assert "x.gguf" in paths.model_files(kind)
    assert "x.gguf" not in host_nodes.UNETLoader.INPUT_TYPES()["required"]["unet_name"][0]
    assert "x.gguf" not in host_nodes.CLIPLoader.INPUT_TYPES()["required"]["clip_name"][0]


def test_a_stop_leaves_nothing(folders, monkeypatch):
    def stop(calls=[]):  # noqa: B006
        calls.append(1)
        if len(calls) > 5:
            raise InterruptProcessingException

    monkeypatch.setattr(comfy.model_management, "throw_exception_if_processing_interrupted", stop)
    before = sorted(folders.rglob("*"))
    with pytest.raises(InterruptProcessingException):
        made()
    assert sorted(folders.rglob("*")) == before


def test_the_folder_of_the_pack_is_not_written_to(folders, monkeypatch):
    own = str(new_files.NANO / "diffusion_models")
    entry = ([own, str(folders / "diffusion_models")], {".safetensors"})
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "diffusion_models", entry)
    folder_paths.filename_list_cache.clear()
    made("sana_nano.safetensors")
    assert (folders / "diffusion_models" / "sana_nano_int8.safetensors").is_file()
