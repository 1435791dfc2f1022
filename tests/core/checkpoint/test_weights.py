"""Quantised layers by the rules of their format: what they stand for, what has to be there, how fused ones are cut."""

import json

import pytest
import tiny
import torch
from safetensors.torch import save_file

from sana_core.checkpoint.canonical import canonical_transformer
from sana_core.checkpoint.detect import detect
from sana_core.checkpoint.files import read_checkpoint
from sana_core.checkpoint.fit import check_fit, fitted
from sana_core.checkpoint.load import load_autoencoder, load_transformer
from sana_core.checkpoint.weights import FORMATS, logical_shapes, misfits, quantised_layers
from sana_core.errors import CheckpointError

LAYER = "transformer_blocks.0.attn1.to_q"
COMFY = [name for name in FORMATS if name != "scaled_fp8"]
FITTING = [name for name, form in FORMATS.items() if 224 % form.block[0] == 0]  # blocks of 256 are in test_gguf_file.py
SIZES = {"nvfp4": (224, 112), "convrot_w4a4": (224, 112), "asym_w4a8_int8": (224, 112)}  # of the stored (224, 224)
SIZES |= {name: (224, 7 * FORMATS[name].block[1]) for name in FITTING if FORMATS[name].block != (1, 1)}


def mark(name):
    return torch.tensor(list(json.dumps({"format": name}).encode()), dtype=torch.uint8)


def quantised(name, layer=LAYER, shape=None):
    """The tensors of one layer of 224 to 224 in a format."""
    form = FORMATS[name]
    tensors = {f"{layer}.weight": torch.zeros(shape or SIZES.get(name, (224, 224)), dtype=form.stored[0])}
    tensors |= {f"{layer}.{side}": torch.ones(1) for side in form.required}
    return tensors if name == "scaled_fp8" else tensors | {f"{layer}.comfy_quant": mark(name)}


@pytest.fixture(scope="module")
def plain():
    return tiny.transformer().state_dict()


@pytest.mark.parametrize("name", FITTING)
def test_each_format_stands_for_its_logical_shape_and_fits(plain, name):
    tensors = {**plain, **quantised(name)}
    layers = quantised_layers(tensors)
    assert layers == {LAYER: FORMATS[name]}
    shapes = logical_shapes(tensors, layers)
    assert shapes == {key: tuple(tensor.shape) for key, tensor in plain.items()}
    assert not misfits(tensors, plain)
    assert detect(tensors).config == detect(plain).config


@pytest.mark.parametrize("name", FITTING)
def test_a_missing_an_unknown_and_a_wrong_tensor_of_a_quantised_layer_are_named(plain, name):
    whole = {**plain, **quantised(name)}
    for side in ("weight", *FORMATS[name].required):
        key = f"{LAYER}.{side}"
        if name == "scaled_fp8" and side == "scale_weight":  # nothing else marks the layer
            continue
        found = misfits({other: tensor for other, tensor in whole.items() if other != key}, plain)
        assert (found.missing, found.unexpected, found.misshaped) == ([key], [], {})
    found = misfits({**whole, f"{LAYER}.zero_point": torch.ones(1)}, plain)
    assert found.unexpected == [f"{LAYER}.zero_point"] and not found.missing
    found = misfits({**whole, f"{LAYER}.weight": torch.zeros(224, 100, dtype=FORMATS[name].stored[0])}, plain)
    assert f"(224, 100) instead of {SIZES.get(name, (224, 224))} ({name})" in found.misshaped[f"{LAYER}.weight"]
    found = misfits({**whole, f"{LAYER}.weight": whole[f"{LAYER}.weight"].float()}, plain)
    assert "of float32 instead of" in found.misshaped[f"{LAYER}.weight"]


def test_padding_is_part_of_the_stored_shape():
    assert FORMATS["nvfp4"].stored_shape((90, 90)) == (96, 48)
    assert FORMATS["mxfp8"].stored_shape((90, 90)) == (96, 96)
    assert FORMATS["int8_tensorwise"].stored_shape((90, 90)) == (90, 90)


def test_a_quantised_layer_that_the_network_does_not_have_is_unexpected(plain):
    found = misfits({**plain, **quantised("nvfp4", "transformer_blocks.0.attn9")}, plain)
    assert len(found.unexpected) == 4 and not found.missing


def test_a_side_tensor_of_a_plain_layer_is_unexpected(plain):
    assert misfits({**plain, f"{LAYER}.weight_scale": torch.ones(1)}, plain).unexpected == [f"{LAYER}.weight_scale"]


def test_a_format_of_tomorrow_needs_its_weight_alone(plain):
    layer = {
        f"{LAYER}.weight": torch.zeros(7, 3),
        f"{LAYER}.zeros": torch.ones(3),
        f"{LAYER}.comfy_quant": mark("w2a2"),
    }
    assert not misfits({**plain, **layer}, plain)
    del layer[f"{LAYER}.weight"]
    tensors = {key: tensor for key, tensor in plain.items() if key != f"{LAYER}.weight"}
    assert misfits({**tensors, **layer}, plain).missing == [f"{LAYER}.weight"]


@pytest.mark.parametrize("content", [b"[1]", b"not json", b"{}", b'{"format": 3}', b"\xff", b"[" * 100_000])
def test_an_unreadable_mark_is_one_clear_error(plain, content):
    tensors = {**plain, f"{LAYER}.comfy_quant": torch.tensor(list(content), dtype=torch.uint8)}
    with pytest.raises(CheckpointError, match=r"comfy_quant|without the name of a format"):
        quantised_layers(tensors)


@pytest.mark.parametrize("text", ["[1]", "no", "{}", '{"layers": 3}', '{"layers": {"a": 3}}', "[" * 100_000])
def test_unreadable_metadata_is_one_clear_error(text):
    with pytest.raises(CheckpointError):
        quantised_layers({}, {"_quantization_metadata": text})


def test_metadata_marks_layers_too():
    text = json.dumps({"format_version": "1.0", "layers": {LAYER: {"format": "mxfp8"}}})
    assert quantised_layers({}, {"_quantization_metadata": text}) == {LAYER: FORMATS["mxfp8"]}


def test_caption_channels_of_a_packed_projection(plain):
    layer = "caption_projection.linear_1"
    tensors = {**plain, **quantised("nvfp4", layer, (224, 48))}
    assert detect(tensors).config.caption_channels == detect(plain).config.caption_channels == 96


def original(name, scale):
    """A fused layer of the original layout, quantised, and the other tensors under their original names."""
    layer = "blocks.0.attn.qkv"
    return {
        "blocks.0.mlp.inverted_conv.conv.bias": torch.zeros(8),
        **quantised(name, layer, (672, SIZES.get(name, (224, 224))[1])),
        f"{layer}.weight_scale": scale,
    }


@pytest.mark.parametrize("name", ["float8_e4m3fn", "int8_tensorwise"])
def test_a_fused_layer_is_cut_with_its_scales(name):
    rows = torch.arange(672.0).reshape(672, 1)
    tensors = canonical_transformer(original(name, rows)).tensors
    for index, part in enumerate("qkv"):
        layer = f"transformer_blocks.0.attn1.to_{part}"
        assert tensors[f"{layer}.weight"].shape == (224, 224)
        assert torch.equal(tensors[f"{layer}.weight_scale"], rows[index * 224 : (index + 1) * 224])
        assert torch.equal(tensors[f"{layer}.comfy_quant"], mark(name))
    assert not any("qkv" in key for key in tensors)
    one = canonical_transformer(original(name, torch.tensor(3.0))).tensors
    assert {one[f"transformer_blocks.0.attn1.to_{part}.weight_scale"].item() for part in "qkv"} == {3.0}


@pytest.mark.parametrize("name", ["nvfp4", "mxfp8", "convrot_w4a4", "asym_w4a8_int8"])
def test_a_fused_layer_whose_rows_cannot_be_cut_is_refused_by_format(name):
    with pytest.raises(CheckpointError, match=rf"blocks\.0\.attn\.qkv holds 3 layers in one, quantised as {name}"):
        canonical_transformer(original(name, torch.ones(1)))


def test_misfits_of_side_tensors_are_named_as_in_the_file():
    tensors = original("int8_tensorwise", torch.ones(1))
    del tensors["blocks.0.attn.qkv.weight_scale"]
    canonical = canonical_transformer(tensors)
    expected = tiny.transformer(depth=1).state_dict()
    found = misfits(canonical.tensors, expected)
    assert [canonical.original_key(key) for key in found.missing if "scale" in key and "to_" in key] == [
        "blocks.0.attn.qkv.weight_scale"
    ] * 3
    with pytest.raises(CheckpointError, match=r"missing"):
        check_fit(fitted(canonical.tensors, expected), expected, canonical)


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize("name", FITTING)
def test_the_library_calls_quantised_files_what_they_are(tmp_path, plain, name, prefix):
    tensors = {**plain, **quantised(name)}
    save_file({prefix + key: tensor for key, tensor in tensors.items()}, tmp_path / "m.safetensors")
    for device in ("cpu", "meta"):
        with pytest.raises(CheckpointError, match=rf"is quantised \({name}.*load it in ComfyUI"):
            load_transformer(tmp_path / "m.safetensors", device=device)


OTHER_TOOLS = {
    "Nunchaku": {f"{LAYER}.wscales": torch.ones(1), f"{LAYER}.smooth": torch.ones(1)},
    "bitsandbytes": {f"{LAYER}.weight.absmax": torch.ones(1)},
    "GPTQ or AWQ": {f"{LAYER}.qzeros": torch.ones(1)},
    "with scales": {f"{LAYER}.weight_scale": torch.ones(1)},
    "scaled_fp8": {"scaled_fp8": torch.ones(1)},
    "stored as int8": {f"{LAYER}.weight": torch.ones(224, 224, dtype=torch.int8)},
}


@pytest.mark.parametrize("said", OTHER_TOOLS)
def test_quantised_files_of_other_tools(tmp_path, plain, said):
    save_file({**plain, **OTHER_TOOLS[said]}, tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match=f"quantised.*{said}"):
        load_transformer(tmp_path / "m.safetensors")


def test_a_quantised_folder_of_diffusers(tmp_path, plain):
    save_file(plain, tmp_path / "m.safetensors")
    (tmp_path / "config.json").write_text('{"quantization_config": {"quant_method": "bitsandbytes"}}')
    with pytest.raises(CheckpointError, match=r"quantised \(bitsandbytes.*load it in diffusers"):
        load_transformer(tmp_path)


def test_a_quantised_autoencoder(tmp_path):
    tensors = tiny.autoencoder().state_dict()
    save_file({**tensors, "decoder.conv_in.weight_scale": torch.ones(1)}, tmp_path / "vae.safetensors")
    with pytest.raises(CheckpointError, match="quantised"):
        load_autoencoder(tmp_path / "vae.safetensors")


def number_type(name, bits):
    """A safetensors file with one tensor of 16 numbers of this type."""
    size = 16 * bits // 8
    header = json.dumps({"w": {"dtype": name, "shape": [16], "data_offsets": [0, size]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(size)


KNOWN = {"F8_E8M0": ("float8_e8m0fnu", 8), "U16": ("uint16", 16), "U32": ("uint32", 32), "U64": ("uint64", 64),
         "C64": ("complex64", 64), "BF16": ("bfloat16", 16), "F8_E4M3": ("float8_e4m3fn", 8)}  # fmt: skip


@pytest.mark.parametrize("name", [name for name, (dtype, _) in KNOWN.items() if hasattr(torch, dtype)])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_number_types_of_safetensors(tmp_path, name, device):
    dtype, bits = KNOWN[name]
    (tmp_path / "m.safetensors").write_bytes(number_type(name, bits))
    assert read_checkpoint(tmp_path / "m.safetensors", device).tensors["w"].dtype == getattr(torch, dtype)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_packed_four_bit_numbers_are_no_damage(tmp_path, device):
    """PyTorch holds two of them in an element of one byte."""
    (tmp_path / "m.safetensors").write_bytes(number_type("F4", 4))
    try:
        tensor = read_checkpoint(tmp_path / "m.safetensors", device).tensors["w"]
        assert tensor.numel() * tensor.element_size() == 8
    except CheckpointError as error:
        assert "unknown number type F4" in str(error)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("name", ["F6_E2M3", "I3"])
def test_an_unknown_number_type_is_called_so(tmp_path, name, device):
    (tmp_path / "m.safetensors").write_bytes(number_type(name, 6 if name[0] == "F" else 3))
    with pytest.raises(CheckpointError, match=f"unknown number type {name}"):
        read_checkpoint(tmp_path / "m.safetensors", device)
