"""A quantised Gemma-2 as ComfyUI's CLIP reads as sana_core's text encoder does."""

import json
from dataclasses import asdict

import gguf_gemma
import pytest
import quantised_files as files
import tiny_text
import torch
from agreement import assert_agree, error
from comfy import quant_ops, sd
from comfy_extras import nodes_model_merging
from safetensors.torch import load_file, save_file
from sana_pack.nodes.bridge import loading, text_encoder
from sana_pack.sana_core import errors
from sana_pack.sana_core.quantiser.convert import quantise_file
from sana_pack.sana_core.text import load as core

SIZES = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16, "query_pre_attn_scalar": 16}
CONFIG = tiny_text.config(**SIZES)
PROMPT = "a red apple on a wooden table"
EXACT = 1e-4
NAMES = {"int8": "int8_tensorwise", "int8-convrot": "int8_tensorwise", "fp8": "float8_e4m3fn",
         "w4a8": "asym_w4a8_int8", "w4a4": "convrot_w4a4"}  # fmt: skip


def available(form):
    return NAMES.get(form, form) in quant_ops.QUANT_ALGOS


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Path of a Gemma-2 in 32 bits."""
    path = tmp_path_factory.mktemp("gemma") / "gemma.safetensors"
    weights = {f"model.{key}": tensor for key, tensor in tiny_text.state_dict(CONFIG).items()}
    spiece = torch.frombuffer(bytearray(tiny_text.spiece()), dtype=torch.uint8)
    save_file({**weights, "spiece_model": spiece}, path, {"config": json.dumps(asdict(CONFIG))})
    return path


@pytest.fixture(scope="module")
def gguf_file(source):
    path = source.with_name("gemma.gguf")
    return gguf_gemma.write(path, (load_file(source), asdict(CONFIG)))


@pytest.fixture
def quantised(source, tmp_path):
    def make(form, **options):
        if not available(form):
            pytest.skip(f"this ComfyUI does not have {form}")
        quantise_file(source, tmp_path / "q.safetensors", form, **options)
        return tmp_path / "q.safetensors"

    return make


def encode(clip):
    ((states, _),) = clip.encode_from_tokens_scheduled(clip.tokenize(PROMPT, instruction=None))
    return states


def reference(path):
    """By sana_core, of a file with the numbers that the weights stand for."""
    whole = path.with_name(f"whole-{path.name}.safetensors")
    save_file(files.numbers(path), whole, {"config": json.dumps(asdict(CONFIG))})
    return core.load_text_encoder(whole, dtype=torch.float32).encode([PROMPT], instruction=None)[0]


def assert_reads_as(clip, path, source):
    table = clip.cond_stage_model.gemma2_2b.transformer.model.embed_tokens.weight
    packed = isinstance(table, quant_ops.QuantizedTensor) or not files.marked(path, "embed_tokens")
    # hosts that cannot read single rows of a format hold its numbers in bfloat16
    assert_agree(encode(clip), reference(path), EXACT if packed else 0.5)
    assert error(encode(clip), reference(source)) > 1e-3  # it is quantised


@pytest.mark.parametrize("form", ["int8", "int8-convrot", "fp8", "mxfp8", "nvfp4", "w4a8", "w4a4"])
def test_formats(quantised, source, form):
    path = quantised(form)
    assert_reads_as(text_encoder.load_text_encoder(str(path)), path, source)


@pytest.mark.parametrize("embedding", ["fp8", "int8", "16bit"])
@pytest.mark.parametrize("form", ["int8-convrot", "fp8"])
def test_embeddings(quantised, source, form, embedding):
    path = quantised(form, embedding=embedding)
    assert_reads_as(text_encoder.load_text_encoder(str(path)), path, source)


def test_gguf(gguf_file, source):
    """In the layout of llama.cpp, the embedding in blocks too."""
    clip = text_encoder.load_text_encoder(str(gguf_file))
    table = clip.cond_stage_model.gemma2_2b.transformer.model.embed_tokens.weight
    assert table._params.kind == "q8_0"
    assert_reads_as(clip, gguf_file, source)


@pytest.mark.parametrize("form", ["int8", "nvfp4", "w4a8", "gguf"])
def test_it_can_be_saved(quantised, gguf_file, source, form, tmp_path, monkeypatch):
    """By Save CLIP, and beside a quantised transformer by Save Checkpoint."""
    path = gguf_file if form == "gguf" else quantised(form)
    clip = text_encoder.load_text_encoder(str(path))
    saver = nodes_model_merging.CLIPSave()
    saver.output_dir = str(tmp_path)
    saver.save(clip, "saved")
    saved = {key: tensor for part in tmp_path.glob("saved*.safetensors") for key, tensor in load_file(part).items()}
    save_file(saved, tmp_path / "saved.safetensors")  # it writes the tokenizer into a file of its own
    assert_agree(encode(text_encoder.load_text_encoder(str(tmp_path / "saved.safetensors"))), encode(clip), EXACT)

    model = loading.load_model(str(files.quantised("gguf-q4_0" if form == "gguf" else form)))
    whole = str(tmp_path / "whole.safetensors")
    sd.save_checkpoint(whole, model, clip)
    assert_agree(encode(text_encoder.load_text_encoder(whole)), encode(clip), EXACT)
    loaded, clip_again, *_ = sd.load_checkpoint_guess_config(whole, output_vae=False)
    assert_agree(encode(clip_again), encode(clip), EXACT)
    before, after = (patcher.model.diffusion_model.state_dict() for patcher in (model, loaded))
    assert before.keys() == after.keys()
    assert all(torch.equal(as_bytes(after[key]), as_bytes(before[key])) for key in before)


def as_bytes(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def test_only_one_of_the_two_is_gguf(gguf_file, source, tmp_path):
    path = str(tmp_path / "whole.safetensors")
    clip = text_encoder.load_text_encoder(str(gguf_file))
    sd.save_checkpoint(path, loading.load_model(str(files.plain())), clip)
    loaded, clip_again, *_ = sd.load_checkpoint_guess_config(path, output_vae=False)
    assert_agree(encode(clip_again), encode(clip), EXACT)
    assert loaded.model.model_config.quant_config is None
    clip = text_encoder.load_text_encoder(str(source))
    sd.save_checkpoint(path, loading.load_model(str(files.quantised("gguf-q4_0"))), clip)
    loaded, clip_again, *_ = sd.load_checkpoint_guess_config(path, output_vae=False)
    assert_agree(encode(clip_again), encode(clip), EXACT)
    assert loaded.model.model_config.quant_config is not None


@pytest.mark.parametrize("change, said", [
    (lambda t, key: t.pop(f"{key}.weight_scale"), "1 missing"),
    (lambda t, key: t.update({f"{key}.comfy_quant": files.mark(format="awq_w4a16")}), "awq_w4a16"),
    (lambda t, key: t.update({f"{key}.weight_scale": torch.ones(5)}), r"\(5,\) instead of"),
], ids=["missing", "unknown", "shape"])  # fmt: skip
def test_what_does_not_fit_is_named(quantised, tmp_path, change, said):
    tensors, key = load_file(quantised("int8")), "model.layers.0.mlp.up_proj"
    change(tensors, key)
    path = tmp_path / "damaged.safetensors"
    save_file(tensors, path, {"config": json.dumps(asdict(CONFIG))})
    with pytest.raises(errors.CheckpointError, match=said) as raised:
        text_encoder.load_text_encoder(str(path))
    assert key in str(raised.value) and str(path) in str(raised.value) and "\n" not in str(raised.value)
