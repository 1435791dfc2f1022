"""Whole networks from quantised files: the same as networks whose weights were rounded beforehand."""

import copy
import json

import pytest
import tiny
import tiny_lora
import tiny_pipeline
import torch
from safetensors.torch import load_file, save_file

from sana_core import Request, load_pipeline
from sana_core.checkpoint.files import read_checkpoint
from sana_core.checkpoint.load import load_controlnet, load_transformer
from sana_core.checkpoint.weights import marked, quantised_layers
from sana_core.errors import CheckpointError
from sana_core.lora.apply import apply_lora
from sana_core.lora.file import load_lora
from sana_core.quantised.dequantise import dequantise
from sana_core.quantised.layers import QuantisedEmbedding, QuantisedLinear
from sana_core.quantiser.convert import quantise_file
from sana_core.quantiser.policy import FORMATS
from sana_core.text.load import load_text_encoder

FORMATS_HERE = [name for name in FORMATS if name != "w4a4"]  # int8 at this width
LATENT = torch.randn(2, 32, 4, 6, generator=torch.Generator().manual_seed(1))
CONTEXT = torch.randn(2, 7, 96, generator=torch.Generator().manual_seed(2))
TIME = torch.tensor([999.0, 250.5])
TO_Q = "transformer_blocks.0.attn1.to_q"


def quantised(folder, format, **changes):
    save_file(tiny.transformer(**changes).state_dict(), folder / "plain.safetensors")
    path = folder / ("q.gguf" if format.startswith("gguf") else "q.safetensors")
    quantise_file(folder / "plain.safetensors", path, format, trained_precision="bfloat16", dtype=torch.float32)
    return path


def rounded(path, network):
    """The network of a quantised file with its rounded numbers as plain weights."""
    checkpoint = read_checkpoint(path)
    tensors = marked(checkpoint.tensors, checkpoint.metadata)
    state = network.state_dict()
    layers = quantised_layers(tensors)
    assert layers
    for name, form in layers.items():
        parts = {key.rpartition(".")[2]: part for key, part in tensors.items() if key.rpartition(".")[0] == name}
        numbers = dequantise(form.name, parts, form.settings, tuple(state[f"{name}.weight"].shape))
        state[f"{name}.weight"].copy_(numbers)
    return network


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("format", FORMATS_HERE)
def test_a_transformer(tmp_path, format, qk_norm):
    path = quantised(tmp_path, format, qk_norm=qk_norm)
    model = load_transformer(path, dtype=torch.float32)
    held = sum(isinstance(layer, QuantisedLinear) for layer in model.modules())
    assert held == 2 * (9 if format.startswith("gguf") else 10)  # 32 does not divide the 560 of conv_point
    expected = rounded(path, tiny.transformer(qk_norm=qk_norm))(LATENT, TIME, CONTEXT)
    torch.testing.assert_close(model(LATENT, TIME, CONTEXT), expected, rtol=1e-5, atol=1e-5)
    model.join_projections()
    assert torch.equal(model(LATENT, TIME, CONTEXT), load_transformer(path, dtype=torch.float32)(LATENT, TIME, CONTEXT))


def test_it_stays_small_on_its_way_to_another_type(tmp_path):
    model = load_transformer(quantised(tmp_path, "fp8")).to(torch.bfloat16)
    layer = model.get_submodule(TO_Q)
    assert layer.quantised.weight.dtype == torch.float8_e4m3fn and layer.quantised.weight_scale.dtype == torch.float32
    assert model(LATENT.bfloat16(), TIME, CONTEXT.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("format", ["int8", "gguf-q8_0"])
def test_the_number_type_is_the_trained_one(tmp_path, format):
    """Small tensors of GGUF files are float32, whatever the model was trained in."""
    assert load_transformer(quantised(tmp_path, format)).scale_shift_table.dtype == torch.bfloat16


def test_a_gguf_that_states_nothing_is_of_unknown_precision(tmp_path):
    path = quantised(tmp_path, "gguf-q8_0")
    tensors = read_checkpoint(path).tensors
    halves = {key: tensor.half() if tensor.dtype == torch.float32 else tensor for key, tensor in tensors.items()}
    save_file({key: tensor.contiguous() for key, tensor in halves.items()}, tmp_path / "bare.safetensors")
    assert load_transformer(tmp_path / "bare.safetensors").config.fp16_trained is None


def metadata_marks(path):
    """The same file with the marks in the metadata."""
    tensors = load_file(path)
    marks = {key: tensors.pop(key) for key in list(tensors) if key.endswith(".comfy_quant")}
    layers = {key.removesuffix(".comfy_quant"): json.loads(mark.numpy().tobytes()) for key, mark in marks.items()}
    save_file(tensors, path, {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": layers})})


def older_marks(path):
    """The same file as older tools for fp8 made them."""
    tensors = load_file(path)
    tensors = {
        key.replace("weight_scale", "scale_weight"): tensor
        for key, tensor in tensors.items()
        if not key.endswith(".comfy_quant")
    }
    save_file({**tensors, "scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}, path)


@pytest.mark.parametrize("marks", [metadata_marks, older_marks])
def test_other_marks_mean_the_same(tmp_path, marks):
    path = quantised(tmp_path, "fp8")
    expected = load_transformer(path, dtype=torch.float32)(LATENT, TIME, CONTEXT)
    marks(path)
    assert torch.equal(load_transformer(path, dtype=torch.float32)(LATENT, TIME, CONTEXT), expected)


def test_a_controlnet(tmp_path):
    network = tiny.controlnet()
    save_file(network.state_dict(), tmp_path / "plain.safetensors")
    layer, tensors = "transformer_blocks.0.attn1.to_q", network.state_dict()
    scale = tensors[f"{layer}.weight"].abs().amax(1, keepdim=True) / 127
    tensors[f"{layer}.weight_scale"] = scale
    tensors[f"{layer}.weight"] = (tensors[f"{layer}.weight"] / scale).round().to(torch.int8)
    tensors[f"{layer}.comfy_quant"] = torch.tensor(list(b'{"format": "int8_tensorwise"}'), dtype=torch.uint8)
    save_file(tensors, tmp_path / "q.safetensors")
    model = load_controlnet(tmp_path / "q.safetensors")
    assert isinstance(model.get_submodule(layer), QuantisedLinear)


# --- LoRA


def lora(tmp_path, tensors):
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, tmp_path / "lora.safetensors")
    return load_lora(tmp_path / "lora.safetensors")


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("format", ["int8", "nvfp4", "gguf-q4_0"])
def test_a_lora_is_kept_beside_the_weights(tmp_path, format, fused):
    path = quantised(tmp_path, format)
    model, plain = load_transformer(path, dtype=torch.float32), rounded(path, tiny.transformer())
    before = model(LATENT, TIME, CONTEXT)
    factors = tiny_lora.factors(plain)
    file = lora(tmp_path, tiny_lora.kohya(tiny_lora.fused(factors), "") if fused else tiny_lora.peft(factors))
    for strength in (0.7, -0.2):
        reports = [apply_lora(network, file, strength) for network in (model, plain)]
        assert reports[0].matched == reports[1].matched
    assert isinstance(model.get_submodule(TO_Q), QuantisedLinear)
    expected = plain(LATENT, TIME, CONTEXT)
    assert (expected - before).norm() > 0.01 * before.norm()
    torch.testing.assert_close(model(LATENT, TIME, CONTEXT), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["DoRA", "difference"])
def test_other_changes_make_a_layer_plain(tmp_path, kind, dtype, caplog):
    path = quantised(tmp_path, "int8")
    model, plain = load_transformer(path, dtype=dtype), rounded(path, tiny.transformer()).to(dtype)
    down, up = tiny_lora.factors(plain)[TO_Q]
    tensors = {f"diffusion_model.{TO_Q}.diff": (up @ down).float()}
    if kind == "DoRA":
        tensors = {**tiny_lora.peft({TO_Q: (down, up)}), f"transformer.{TO_Q}.lora_magnitude_vector": torch.ones(224)}
    file = lora(tmp_path, tensors)
    with caplog.at_level("INFO", "sana"):
        for network in (model, plain):
            apply_lora(network, file)
    assert f"{TO_Q} is not quantised any more" in caplog.text
    layer = model.get_submodule(TO_Q)
    assert type(layer) is torch.nn.Linear and layer.weight.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(layer.weight, plain.get_submodule(TO_Q).weight, rtol=tolerance, atol=tolerance)
    model(LATENT.to(dtype), TIME, CONTEXT.to(dtype))


def test_nothing_changes_where_a_table_would_have_to(tmp_path):
    paths = tiny_pipeline.write_files(tmp_path)
    quantise_file(paths["text_encoder"], tmp_path / "t.safetensors", "int8")
    encoder = load_text_encoder(tmp_path / "t.safetensors")
    rows, width = encoder.config.vocab_size, encoder.config.hidden_size
    name = "text_encoder.model.embed_tokens"
    file = lora(tmp_path, {f"{name}.lora_A.weight": torch.ones(2, width), f"{name}.lora_B.weight": torch.ones(rows, 2)})
    before = copy.deepcopy(encoder.state_dict())
    with pytest.raises(ValueError, match=r"changes embed_tokens.*Nothing was changed"):
        apply_lora(encoder.model, file)
    assert all(torch.equal(tensor, before[key]) for key, tensor in encoder.state_dict().items())


# --- text encoder and pipeline


@pytest.mark.parametrize("embedding", ["fp8", "int8", "16bit"])
@pytest.mark.parametrize("format", ["int8", "nvfp4"])
def test_a_text_encoder(tmp_path, format, embedding):
    paths = tiny_pipeline.write_files(tmp_path)
    path = tmp_path / "q.safetensors"
    quantise_file(paths["text_encoder"], path, format, embedding=embedding, dtype=torch.float32)
    encoder = load_text_encoder(path, dtype=torch.float32)
    assert isinstance(encoder.model.embed_tokens, QuantisedEmbedding) == (embedding != "16bit")
    plain = load_text_encoder(paths["text_encoder"], dtype=torch.float32)
    state = {f"model.{key}": tensor for key, tensor in plain.model.state_dict().items()}
    checkpoint = read_checkpoint(path)
    for name, form in quantised_layers(checkpoint.tensors).items():
        parts = {k.rpartition(".")[2]: p for k, p in checkpoint.tensors.items() if k.rpartition(".")[0] == name}
        state[f"{name}.weight"].copy_(dequantise(form.name, parts, form.settings, tuple(state[f"{name}.weight"].shape)))
    (states, mask), (expected, _) = (network.encode(["a red apple", ""]) for network in (encoder, plain))
    torch.testing.assert_close(states, expected, rtol=1e-4, atol=1e-4)
    assert mask.any()


@pytest.mark.parametrize("offload", [False, True])
def test_a_pipeline_of_quantised_files(tmp_path, offload):
    paths = tiny_pipeline.write_files(tmp_path)
    for part in ("transformer", "text_encoder"):
        quantise_file(paths[part], tmp_path / f"q_{part}.safetensors", "int8", dtype=torch.float32)
    quantised = {**paths, **{part: tmp_path / f"q_{part}.safetensors" for part in ("transformer", "text_encoder")}}
    request = Request("a red apple", seed=3, steps=2)
    expected = load_pipeline(paths)(request, output="latent")
    found = load_pipeline(quantised, offload=offload)(request, output="latent")
    assert 0 < (found - expected).norm() < 0.1 * expected.norm()


# --- what is refused


def changed(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


@pytest.mark.parametrize("format, side, value", [
    ("int8", "weight_scale", torch.nan), ("fp8", "weight_scale", torch.inf), ("fp8", "weight_scale", 0.0),
    ("fp8", "weight_scale", -1.0), ("nvfp4", "weight_scale_2", torch.nan), ("nvfp4", "weight_scale", torch.nan),
    ("w4a8", "weight_s_channel", torch.nan), ("w4a8", "weight_codebook", torch.inf), ("mxfp8", "weight_scale", 255),
])  # fmt: skip
def test_scales_that_are_no_numbers(tmp_path, format, side, value):
    path = quantised(tmp_path, format)
    changed(path, lambda tensors: tensors[f"{TO_Q}.{side}"].fill_(value))
    with pytest.raises(CheckpointError, match=rf"{TO_Q}\.{side} is no number above 0"):
        load_transformer(path)
    load_transformer(path, device="meta")


def test_an_older_file_without_a_scale(tmp_path):
    path = quantised(tmp_path, "fp8")
    older_marks(path)
    changed(path, lambda tensors: tensors.pop(f"{TO_Q}.scale_weight"))
    with pytest.raises(CheckpointError, match=rf"1 missing \({TO_Q}\.scale_weight\)"):
        load_transformer(path)


@pytest.mark.parametrize("stated, said", [
    ({"convrot": True, "convrot_groupsize": 1}, "an unknown size"), ({"convrot": "false"}, "expected true or false"),
])  # fmt: skip
def test_marks_that_cannot_be_meant(tmp_path, stated, said):
    path = quantised(tmp_path, "int8")
    text = json.dumps({"format": "int8_tensorwise", **stated}).encode()
    changed(path, lambda tensors: tensors.update({f"{TO_Q}.comfy_quant": torch.tensor(list(text), dtype=torch.uint8)}))
    with pytest.raises(CheckpointError, match=said):
        load_transformer(path)


@pytest.mark.parametrize("format", ["int8", "nvfp4", "gguf-q4_0"])
def test_copies_and_pickles(tmp_path, format):
    model = load_transformer(quantised(tmp_path, format), dtype=torch.float32)
    expected = model(LATENT, TIME, CONTEXT)
    torch.save(model, tmp_path / "model.pt")
    for copied in (copy.deepcopy(model), torch.load(tmp_path / "model.pt", weights_only=False)):
        assert torch.equal(copied(LATENT, TIME, CONTEXT), expected)
