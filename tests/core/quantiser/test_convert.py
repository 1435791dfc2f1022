"""Whole files: what is quantised, what stays, what the new file says of itself, what is refused."""

import dataclasses
import json
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import tiny
import tiny_pipeline
import tiny_text
import torch
from comfy_kitchen import tensor as kitchen
from safetensors.torch import load_file, save_file

from sana_core.checkpoint.canonical import canonical_transformer
from sana_core.checkpoint.detect import detect
from sana_core.checkpoint.files import read_checkpoint
from sana_core.checkpoint.fit import check_fit
from sana_core.checkpoint.key_maps import TIME_EMBED_NVLABS, TRANSFORMER_NVLABS, foreign_key
from sana_core.checkpoint.weights import quantised_layers
from sana_core.config import POSITIONS
from sana_core.errors import CheckpointError, InputError
from sana_core.kit import Kit
from sana_core.pipeline.request import Request
from sana_core.quantiser import convert, sinks
from sana_core.quantiser.calibration import largest_inputs
from sana_core.quantiser.convert import quantise_file
from sana_core.quantiser.making import RECIPES
from sana_core.text.detect import gemma2_tensors, text_config
from sana_core.text.gemma import build_gemma2
from sana_core.transformer.model import SanaTransformer

ROOT = Path(__file__).parents[3]
LAYERS = {
    f"transformer_blocks.{block}.{layer}"
    for block in (0, 1)
    for layer in (
        *(f"attn{number}.{name}" for number in (1, 2) for name in ("to_q", "to_k", "to_v", "to_out.0")),
        "ff.conv_inverted",
        "ff.conv_point",
    )
}
GEMMA_LAYERS = {
    f"layers.{number}.{layer}"
    for number in range(3)
    for layer in (
        *(f"self_attn.{name}_proj" for name in "qkvo"),
        *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
    )
}
WORST = {"int8": 1e-2, "int8-convrot": 1e-2, "fp8": 4e-2, "mxfp8": 3e-2, "nvfp4": 0.13, "w4a8": 0.13, "w4a4": 0.17}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return tiny_pipeline.write_files(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def target(tmp_path):
    return tmp_path / "new.safetensors"


def network(path):
    """The canonical tensors of a transformer's file, and what is detected in it."""
    checkpoint = read_checkpoint(path)
    canonical = canonical_transformer(checkpoint.tensors)
    return canonical, detect(canonical.tensors, source=checkpoint.tensors, metadata=checkpoint.metadata)


def read_layer(tensors, layer):
    """The numbers of an int8 layer, without comfy-kitchen."""
    return tensors[f"{layer}.weight"].float() * tensors[f"{layer}.weight_scale"]


@pytest.mark.parametrize("form", RECIPES)
def test_a_transformer_in_every_format(files, target, form):
    report = quantise_file(files["transformer"], target, form)
    canonical, found = network(target)
    plain, before = network(files["transformer"])
    assert (found.config, found.sampling) == (before.config, before.sampling)
    check_fit(canonical.tensors, SanaTransformer(found.config, Kit(device="meta")).state_dict(), canonical)
    assert quantised_layers(canonical.tensors).keys() == LAYERS == {layer.name[:-7] for layer in report.layers}
    for key, tensor in canonical.tensors.items():
        if key in plain.tensors and key.removesuffix(".weight") not in LAYERS:
            assert torch.equal(tensor, plain.tensors[key].to(torch.bfloat16)), key
    assert all(0.0 < layer.error < WORST[form] for layer in report.layers)
    assert all(layer.error < WORST[layer.format] for layer in report.layers)
    assert report.before == sum(t.numel() * 4 for t in plain.tensors.values())
    assert report.after == sum(t.numel() * t.element_size() for t in canonical.tensors.values())
    assert canonical.prefix == ""


@pytest.mark.parametrize("form", RECIPES)
def test_a_gemma_in_every_format(files, target, form):
    quantise_file(files["text_encoder"], target, form)
    checkpoint = read_checkpoint(target)
    found = gemma2_tensors(checkpoint.tensors)
    config = text_config(checkpoint, found)
    assert config == tiny_text.config() and found.canonical.prefix == "model."
    check_fit(found.tensors, build_gemma2(config).state_dict(), found.canonical)
    formats = {layer: rules.name for layer, rules in quantised_layers(found.tensors).items()}
    assert formats.pop("embed_tokens") == ("int8_tensorwise" if form.startswith("int8") else "float8_e4m3fn")
    assert formats.keys() == GEMMA_LAYERS
    assert torch.equal(found.spiece, load_file(files["text_encoder"])["spiece_model"])
    assert json.loads(bytes(found.config.tolist())) == asdict(config)


@pytest.mark.parametrize("embedding", ["fp8", "int8", "16bit"])
def test_the_embedding_as_asked_for(files, target, embedding):
    report = quantise_file(files["text_encoder"], target, "nvfp4", embedding=embedding)
    kinds = {layer.kind: layer.format for layer in report.layers}
    assert kinds.get("embed_tokens", "16bit") == embedding and kinds["mlp.up_proj"] == "nvfp4"
    dtypes = {"fp8": torch.float8_e4m3fn, "int8": torch.int8, "16bit": torch.bfloat16}
    assert load_file(target)["model.embed_tokens.weight"].dtype == dtypes[embedding]


def original(model):
    """In the layout of the original repository: parts of fused layers joined, 1x1 convolutions as kernels."""
    key_map = TRANSFORMER_NVLABS + TIME_EMBED_NVLABS
    parts = {}
    for key, tensor in model.state_dict().items():
        parts.setdefault(foreign_key(key, key_map), []).append(tensor)
    whole = {key: torch.cat(found) for key, found in parts.items()}
    return {key: t[:, :, None, None] if t.ndim == 2 and key.endswith("conv.weight") else t for key, t in whole.items()}


def test_every_layout_gives_the_same_layers(tmp_path, target):
    model = tiny.transformer()
    torch.save({"state_dict": original(model)}, tmp_path / "model.pth")
    save_file({f"model.diffusion_model.{k}": t for k, t in model.state_dict().items()}, tmp_path / "all.safetensors")
    folder = tmp_path / "transformer"
    folder.mkdir()
    save_file(model.state_dict(), folder / "diffusion_pytorch_model.safetensors")
    (folder / "config.json").write_text("{}")
    made = []
    for number, source in enumerate((tmp_path / "model.pth", tmp_path / "all.safetensors", folder)):
        quantise_file(source, tmp_path / f"{number}.safetensors", "int8")
        made.append(load_file(tmp_path / f"{number}.safetensors"))
    for layer in LAYERS:
        stored = read_layer(made[0], layer)
        assert torch.allclose(stored, model.state_dict()[f"{layer}.weight"], atol=stored.abs().max() / 200)
    for other in made[1:]:
        assert other.keys() == made[0].keys()
        assert all(torch.equal(tensor, made[0][key]) for key, tensor in other.items())


def test_the_new_file_states_what_its_source_showed(tmp_path, target):
    """The length of pos_embed, which only original files have, and the choices of the caller."""
    position = {"pos_embed": torch.zeros(1, POSITIONS["2k"].base_size ** 2, 224)}
    torch.save(original(tiny.transformer()) | position, tmp_path / "2k.pth")
    quantise_file(tmp_path / "2k.pth", target, "int8")
    found = network(target)[1]
    assert found.config.position == POSITIONS["2k"] and found.config.fp16_trained is False
    assert found.sampling.width == 2048

    save_file(tiny.transformer().state_dict(), tmp_path / "plain.safetensors")
    options = {"variant": "512", "trained_precision": "float16", "overwrite": True}
    quantise_file(tmp_path / "plain.safetensors", target, "int8", **options)
    found = network(target)[1]
    assert found.config.fp16_trained is True and found.sampling.width == 512
    assert load_file(target)["proj_out.weight"].dtype == torch.float16


def test_the_type_of_the_rest_can_be_chosen(files, target):
    quantise_file(files["transformer"], target, "fp8", dtype=torch.float32)
    tensors = load_file(target)
    assert tensors["proj_out.weight"].dtype == torch.float32
    assert tensors["transformer_blocks.0.ff.conv_inverted.bias"].dtype == torch.float32


def test_inputs_that_were_measured(files, target):
    inputs = {layer: 896.0 for layer in LAYERS if "attn1" in layer}
    quantise_file(files["transformer"], target, "fp8", inputs=inputs)
    tensors = load_file(target)
    assert {key[: -len(".input_scale")] for key in tensors if key.endswith(".input_scale")} == inputs.keys()
    assert tensors["transformer_blocks.1.attn1.to_q.input_scale"].item() == 2.0


def test_the_summary_and_its_json(files, target):
    steps = []
    report = quantise_file(files["transformer"], target, "w4a4", progress=lambda *done: steps.append(done))
    assert steps[-1][0] == steps[-1][1] == len(steps)
    lines = report.lines()
    assert "20 layers to w4a4, the rest in bfloat16" in lines[0] and len(lines) == 12
    assert any(line.strip().startswith("ff.conv_point") and "worst" in line for line in lines)
    assert lines[-1].strip() == "20 layers are in int8: w4a4 does not fit their width"
    assert json.loads(json.dumps(report.as_dict()))["layers"][0]["wanted"] == "w4a4"


def test_a_quantised_file_is_refused_by_its_format(files, tmp_path, target):
    quantise_file(files["transformer"], target, "nvfp4")
    with pytest.raises(CheckpointError, match=r"quantised already \(nvfp4, see "):
        quantise_file(target, tmp_path / "again.safetensors", "int8")
    assert [file.name for file in tmp_path.iterdir()] == ["new.safetensors"]


def without(tensors, key):
    return {name: tensor for name, tensor in tensors.items() if name != key}


KEY = "transformer_blocks.1.ff.conv_point.weight"
DAMAGED = {
    "a missing tensor": (lambda tensors: without(tensors, KEY), "1 missing"),
    "an unknown tensor": (lambda tensors: tensors | {"what": torch.ones(3)}, r"1 unexpected \(what\)"),
    "a wrong shape": (lambda tensors: tensors | {KEY: torch.ones(224, 561)}, "of another shape"),
    "whole numbers": (lambda tensors: tensors | {"proj_out.bias": torch.ones(32).int()}, "proj_out.bias of int32"),
    "a NaN in a layer": (lambda tensors: tensors | {KEY: torch.full((224, 560), torch.nan)}, f"{KEY} has numbers"),
    "infinity elsewhere": (
        lambda tensors: tensors | {"proj_out.bias": torch.full((32,), torch.inf)},
        "proj_out.bias has numbers that are not finite",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_source_leaves_no_file(tmp_path, target, case):
    change, said = DAMAGED[case]
    save_file(change(tiny.transformer().state_dict()), tmp_path / "m.safetensors")
    with pytest.raises((CheckpointError, InputError), match=said) as refused:
        quantise_file(tmp_path / "m.safetensors", target, "int8")
    assert str(refused.value).startswith(str(tmp_path / "m.safetensors"))
    assert [file.name for file in tmp_path.iterdir()] == ["m.safetensors"]


def test_numbers_that_float16_does_not_have(tmp_path, target):
    tensors = tiny.transformer().state_dict() | {"proj_out.bias": torch.full((32,), 1e6)}
    save_file(tensors, tmp_path / "m.safetensors")
    with pytest.raises(InputError, match=r"proj_out.bias leaves the range of float16: choose bfloat16"):
        quantise_file(tmp_path / "m.safetensors", target, "int8", dtype=torch.float16)
    assert not target.exists()


def test_a_pickle_whose_tensors_repeat_few_numbers(tmp_path, target):
    tensors = {key: torch.zeros(1).expand(tensor.shape) for key, tensor in tiny.transformer().state_dict().items()}
    torch.save(tensors, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match="repeats the numbers"):
        quantise_file(tmp_path / "m.pth", target, "int8")


def test_other_models_and_other_choices(files, tmp_path, target):
    with pytest.raises(CheckpointError, match=r"expected a SANA transformer or a Gemma-2, found"):
        quantise_file(files["autoencoder"], target, "int8")
    for options, said in (
        ({"format": "int3"}, 'unknown format "int3"'),
        ({"format": "int8", "embedding": "int4"}, "unknown format of the embedding"),
        ({"format": "int8", "dtype": torch.float64}, "dtype="),
        ({"format": "int8", "variant": "8k"}, "unknown variant"),
        ({"format": "int8", "trained_precision": "int8"}, "trained precision"),
    ):
        with pytest.raises((CheckpointError, InputError), match=said):
            quantise_file(files["transformer"], target, **options)
    with pytest.raises(InputError, match="not written as GGUF"):
        quantise_file(files["text_encoder"], target.with_suffix(".gguf"), "gguf-q8_0")
    for name, form in (("new.safetensors", "gguf-q8_0"), ("new.gguf", "int8")):
        with pytest.raises(InputError, match=rf"{form} makes a"):
            quantise_file(files["transformer"], tmp_path / name, form)
    assert list(tmp_path.iterdir()) == []


def test_the_source_is_never_replaced(tmp_path):
    source, folder = tmp_path / "m.safetensors", tmp_path / "transformer"
    folder.mkdir()
    for path in (source, folder / "diffusion_pytorch_model.safetensors"):
        save_file(tiny.transformer().state_dict(), path)
    (tmp_path / "link.safetensors").symlink_to(source)
    before = source.read_bytes()
    for read, target in (
        (source, source),
        (source, tmp_path / "link.safetensors"),
        (tmp_path / "link.safetensors", source),
        (folder, folder / "diffusion_pytorch_model.safetensors"),
        (folder, folder / "new.safetensors"),
    ):
        with pytest.raises(InputError, match="a part of the model that is read"):
            quantise_file(read, target, "int8", overwrite=True)
    assert source.read_bytes() == before


def test_a_tokenizer_from_the_folder_of_the_text_encoder(tmp_path, target, caplog):
    config = tiny_text.config()
    folder = tmp_path / "text_encoder"
    folder.mkdir()
    save_file(tiny_text.state_dict(config), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(asdict(config)))
    quantise_file(folder, target, "int8")
    assert "tokenizer.model" in caplog.text and "spiece_model" not in load_file(target)
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer.model").write_bytes(tiny_text.spiece())
    quantise_file(folder, target, "int8", overwrite=True)
    assert bytes(load_file(target)["spiece_model"].tolist()) == tiny_text.spiece()
    (tmp_path / "bad.model").write_bytes(b"no tokenizer")
    with pytest.raises(CheckpointError, match=r"bad\.model"):
        quantise_file(folder, target, "int8", overwrite=True, tokenizer=tmp_path / "bad.model")


class Stop(Exception):
    pass


def test_an_error_half_way_leaves_no_file(files, tmp_path, target):
    def stop(done, total):
        if done == total // 2:
            raise Stop

    with pytest.raises(Stop):
        quantise_file(files["transformer"], target, "int8", progress=stop)
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
from sana_core.quantiser.convert import quantise_file
quantise_file(*sys.argv[1:], "int8", progress=lambda n, of: n * 2 > of and os.kill(os.getpid(), signal.SIGKILL))
"""


def test_a_killed_process_leaves_no_file_that_loads(files, tmp_path, target):
    command = [sys.executable, "-c", KILLED, str(files["transformer"]), str(target)]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.stat().st_size > 100_000 and left.match("new.safetensors.*.partial")
    with pytest.raises(CheckpointError):
        read_checkpoint(left)
    quantise_file(files["transformer"], target, "int8")  # beside what is left
    assert sorted(tmp_path.iterdir()) == [target, left]


def test_a_network_computes_with_what_is_stored(files, target):
    """The quantised layers, read by comfy-kitchen, in the place of the plain ones: nearly the same velocity."""
    quantise_file(files["transformer"], target, "int8", dtype=torch.float32)
    canonical, found = network(target)
    plain, _ = network(files["transformer"])
    tensors = {}
    for key in plain.tensors:
        layer = key.removesuffix(".weight")
        tensors[key] = canonical.tensors[key]
        if layer in LAYERS:
            layout = kitchen.TensorWiseINT8Layout
            scale, shape = canonical.tensors[f"{layer}.weight_scale"], plain.tensors[key].shape
            params = layout.Params(scale=scale, orig_dtype=torch.float32, orig_shape=tuple(shape))
            tensors[key] = layout.dequantize(tensors[key], params)
    model = SanaTransformer(dataclasses.replace(found.config, depth=2)).eval()
    generator = torch.Generator().manual_seed(0)
    x, text = torch.randn(1, 32, 4, 4, generator=generator), torch.randn(1, 5, 48, generator=generator)
    velocities = []
    for weights in (plain.tensors, tensors):
        model.load_state_dict(weights)
        with torch.no_grad():
            velocities.append(model(x, torch.tensor([500.0]), text))
    error = (velocities[1] - velocities[0]).norm() / velocities[0].norm()
    assert 1e-5 < error < 0.03


def test_inputs_over_prompts(files):
    """Each is the largest of what the layers saw, and all layers are heard."""
    requests = [Request("a red apple", steps=2, seed=1), Request("a small cat", steps=2, seed=2)]
    done = []
    options = {"text_encoder": files["text_encoder"], "device": "cpu"}
    both = largest_inputs(files["transformer"], requests, **options, progress=lambda *numbers: done.append(numbers))
    assert both.keys() == LAYERS and done == [(1, 2), (2, 2)]
    alone = [largest_inputs(files["transformer"], [request], **options) for request in requests]
    assert both == {layer: max(found[layer] for found in alone) for layer in LAYERS}
    assert both["transformer_blocks.0.attn1.to_q"] == both["transformer_blocks.0.attn1.to_v"] > 0.0

    found = largest_inputs(files["text_encoder"], requests, device="cpu")
    assert found.keys() == GEMMA_LAYERS and min(found.values()) > 0.0


def test_inputs_that_cannot_be_measured(files):
    with pytest.raises(InputError, match="no prompts"):
        largest_inputs(files["transformer"], [], text_encoder=files["text_encoder"])
    with pytest.raises(InputError, match="needs a text encoder"):
        largest_inputs(files["transformer"], [Request("a")], device="cpu")


def test_all_is_checked_before_a_tensor_is_read(files, target, monkeypatch):
    monkeypatch.setattr(sinks, "quantise", lambda *args, **options: pytest.fail("nothing is to be quantised"))
    assert convert.prepare(files["transformer"], target, "int8").tensors
    assert not target.exists()
