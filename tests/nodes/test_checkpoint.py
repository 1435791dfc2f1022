"""The text encoder inside a checkpoint that ComfyUI has saved: loaded by the pack and by the host, checked by both."""

import json
from dataclasses import asdict

import pytest
import tiny_text
import torch
from e2e import tiny_files
from e2e.comfyui import REASON
from safetensors.torch import load_file, save_file

loading = pytest.importorskip("sana_pack.nodes.bridge.loading", reason=REASON)
text_encoder = pytest.importorskip("sana_pack.nodes.bridge.text_encoder", reason=REASON)
vae_bridge = pytest.importorskip("sana_pack.nodes.bridge.vae", reason=REASON)
errors = pytest.importorskip("sana_pack.sana_core.errors", reason=REASON)
comfy_sd = pytest.importorskip("comfy.sd", reason=REASON)
comfy_nodes = pytest.importorskip("nodes", reason=REASON)

PREFIX = "text_encoders.gemma2_2b.transformer.model."
HOLE = f"{PREFIX}layers.1.mlp.up_proj.weight"
CONFIG = asdict(tiny_text.config(hidden_size=tiny_files.TEXT_WIDTH))


@pytest.fixture(scope="module")
def clip(file):
    return text_encoder.load_text_encoder(file("text_encoders", "gemma.safetensors"))


@pytest.fixture(scope="module")
def checkpoint(file, clip, tmp_path_factory):
    """Path of a file of Save Checkpoint."""
    path = tmp_path_factory.mktemp("saved") / "all_in_one.safetensors"
    model = loading.load_model(file("diffusion_models", "sana.safetensors"))
    comfy_sd.save_checkpoint(str(path), model, clip, vae_bridge.load_vae(file("vae", "dcae.safetensors")))
    return path


def by_the_pack(path):
    return text_encoder.load_text_encoder(str(path))


def by_the_host(path):
    return comfy_sd.load_checkpoint_guess_config(str(path))[1]


both = pytest.mark.parametrize("load", [by_the_pack, by_the_host])


def encode(clip):
    return comfy_nodes.CLIPTextEncode().encode(clip, "a red apple")[0][0][0]


@both
def test_it_reads_as_before(checkpoint, clip, load):
    assert torch.equal(encode(load(checkpoint)), encode(clip))


def test_it_can_be_saved_and_loaded_again(checkpoint, clip, file, tmp_path):
    model = loading.load_model(file("diffusion_models", "sana.safetensors"))
    comfy_sd.save_checkpoint(str(tmp_path / "again.safetensors"), model, by_the_pack(checkpoint))
    assert torch.equal(encode(by_the_host(tmp_path / "again.safetensors")), encode(clip))


def test_the_copy_factory(checkpoint):
    function, arguments = by_the_pack(checkpoint).patcher.cached_patcher_init
    copy = function(*arguments, disable_dynamic=True)
    key = "gemma2_2b.transformer.model.embed_tokens.weight"
    assert torch.equal(copy.model.state_dict()[key], load_file(checkpoint)[f"text_encoders.{key}"])


def changed(checkpoint, folder, change):
    tensors = load_file(checkpoint)
    change(tensors)
    save_file(tensors, folder / "changed.safetensors")
    return folder / "changed.safetensors"


def stating(text):
    def change(tensors):
        tensors["text_encoders.gemma_config"] = torch.tensor(list(text.encode()), dtype=torch.uint8)

    return change


@both
@pytest.mark.parametrize("change, said", [
    (stating("not json"), "gemma_config is not readable JSON"),
    (stating("[1]"), "gemma_config holds a JSON list"),
    (stating("[" * 100_000), "nested too deeply"),
    (stating(json.dumps({**CONFIG, "num_hidden_layers": 900})), "900 layers but has the tensors of"),
    (stating(json.dumps({**CONFIG, "num_hidden_layers": 10**9})), "num_hidden_layers = 1000000000"),
    (stating(json.dumps({**CONFIG, "head_dim": -8})), "head_dim = -8"),
    (stating(json.dumps({**CONFIG, "hidden_size": "wide"})), "hidden_size = 'wide'"),
    (stating(json.dumps({**CONFIG, "intermediate_size": 8})), " instead of (8, 48)"),
    (stating(json.dumps({**CONFIG, "attn_logit_softcapping": 0})), "attn_logit_softcapping = 0"),
    (lambda tensors: tensors.pop(HOLE), f"1 missing ({HOLE})"),
], ids=["text", "list", "deep", "layers", "many layers", "negative", "words", "width", "cap", "hole"])  # fmt: skip
def test_what_cannot_be_is_named(checkpoint, tmp_path, load, change, said):
    with pytest.raises(errors.CheckpointError) as raised:
        load(changed(checkpoint, tmp_path, change))
    assert said in str(raised.value)


@both
def test_without_tokenizer(checkpoint, tmp_path, load):
    with pytest.raises(errors.CheckpointError, match="without tokenizer"):
        load(changed(checkpoint, tmp_path, lambda tensors: tensors.pop("text_encoders.spiece_model")))


def test_a_checkpoint_without_text_encoder(checkpoint, tmp_path):
    def without(tensors):
        for key in [key for key in tensors if key.startswith("text_encoders.")]:
            del tensors[key]

    path = changed(checkpoint, tmp_path, without)
    model, clip, vae, _ = comfy_sd.load_checkpoint_guess_config(str(path))
    assert clip is None and model is not None and vae is not None
    with pytest.raises(errors.CheckpointError, match="expected a Gemma-2 text encoder"):
        by_the_pack(path)
