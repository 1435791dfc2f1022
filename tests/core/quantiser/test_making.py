"""One weight in every format: as comfy-kitchen makes it, under the names that ComfyUI reads."""

import json
import sys

import pytest
import torch
from comfy_kitchen import tensor as kitchen

from sana_core.checkpoint.read_json import json_tensor
from sana_core.errors import InputError
from sana_core.quantised.formats import FORMATS
from sana_core.quantiser import making
from sana_core.quantiser.making import RECIPES, check_available, fitting, input_scale, quantise

WORST = {"int8": 1e-2, "int8-convrot": 1e-2, "fp8": 4e-2, "mxfp8": 3e-2, "nvfp4": 0.13, "w4a8": 0.13, "w4a4": 0.17}
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def gaussian(rows=72, width=320, dtype=torch.float32):
    return (torch.randn(rows, width, generator=torch.Generator().manual_seed(0)) * 0.05).to(dtype)


def stated(made):
    return json.loads(bytes(made.parts["comfy_quant"].tolist()))


def test_every_format_has_a_bound_here():
    assert WORST.keys() == RECIPES.keys()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("form", RECIPES)
def test_the_error_is_that_of_the_format(form, dtype):
    weight = gaussian(dtype=dtype)
    before = weight.clone()
    made = quantise(weight, form)
    assert torch.equal(weight, before)  # it may be a part of a mapped file
    difference = (made.dequantised() - weight.float()).norm() / weight.float().norm()
    assert made.error(weight) == pytest.approx(difference.item(), rel=1e-4)
    assert WORST[form] / 4 < made.error(weight) < WORST[form]


@pytest.mark.parametrize("form", RECIPES)
def test_the_parts_are_those_of_the_format_in_its_shape(form):
    weight = gaussian(rows=37)
    made = quantise(weight, form)
    rules = FORMATS[stated(made)["format"]]
    assert tuple(made.parts["weight"].shape) == rules.stored_shape((37, 320))
    assert made.parts["weight"].dtype in rules.stored
    assert set(rules.required) <= made.parts.keys()
    assert all(rules.accepts(side) for side in made.parts if side != "weight")


DIRECT = {
    "int8": ("TensorWiseINT8Layout", {"per_channel": True}),
    "int8-convrot": ("TensorWiseINT8Layout", {"per_channel": True, "convrot": True, "convrot_groupsize": 64}),
    "fp8": ("TensorCoreFP8Layout", {"scale": "recalculate"}),
    "mxfp8": ("TensorCoreMXFP8Layout", {}),
    "nvfp4": ("TensorCoreNVFP4Layout", {}),
    "w4a8": ("AsymW4A8Int8Layout", {"group_size": 16, "convrot_groupsize": 64}),
    "w4a4": ("TensorCoreConvRotW4A4Layout", {"convrot_groupsize": 64}),
}


@pytest.mark.parametrize("pieces", [1, 3], ids="{}-pieces".format)
@pytest.mark.parametrize("form", RECIPES)
def test_it_is_what_comfy_kitchen_makes(monkeypatch, form, pieces):
    """In pieces of 128 rows, too."""
    weight = gaussian(rows=300)
    monkeypatch.setattr(making, "CHUNK", 128 * 320 if pieces > 1 else 1 << 30)
    layout, settings = DIRECT[form]
    direct = kitchen.QuantizedTensor.from_float(weight, layout, **settings)
    calls = []
    monkeypatch.setattr(making, "give_back_memory", lambda: calls.append(1))
    made = quantise(weight, form)
    assert len(calls) == (1 if form == "w4a8" else pieces)
    parts = direct.state_dict("weight")
    assert made.parts.keys() == {*parts, "comfy_quant"}
    for key, tensor in parts.items():
        assert bytes_of(made.parts[key]) == bytes_of(tensor), key
    assert torch.equal(made.dequantised(), direct.dequantize())


def bytes_of(tensor):
    return tensor.reshape(-1).view(torch.uint8).tolist()


def test_marks_state_what_comfyui_needs():
    weight = gaussian()
    assert stated(quantise(weight, "int8")) == {"format": "int8_tensorwise"}
    assert stated(quantise(weight, "int8-convrot")) == {
        "format": "int8_tensorwise", "convrot": True, "convrot_groupsize": 64,
    }  # fmt: skip
    assert stated(quantise(weight, "w4a8")) == {"format": "asym_w4a8_int8", "group_size": 16, "convrot_groupsize": 64}
    assert stated(quantise(weight, "w4a4")) == {"format": "convrot_w4a4", "convrot_groupsize": 64}
    for made in (quantise(weight, form) for form in RECIPES):
        assert made.parts["comfy_quant"].dtype == torch.uint8 and len(made.parts["comfy_quant"]) % 8 == 0
    assert bytes(json_tensor({"a": 1}).tolist()) == b'{"a": 1}'


@pytest.mark.parametrize(
    ("form", "width", "made", "group"),
    [
        ("int8-convrot", 512, "int8-convrot", 256),
        ("int8-convrot", 560, "int8-convrot", 16),
        ("int8-convrot", 72, "int8", None),
        ("w4a8", 560, "w4a8", 16),
        ("w4a8", 72, "int8", None),
        ("w4a4", 512, "w4a4", 256),
        ("w4a4", 560, "int8", None),
        ("nvfp4", 72, "nvfp4", None),
    ],
)
def test_a_rotation_takes_the_largest_group_that_divides_the_width(form, width, made, group):
    assert fitting(form, width) == made
    result = quantise(gaussian(16, width), form)
    assert result.format == made and stated(result).get("convrot_groupsize") == group


def test_an_input_is_rounded_only_at_a_scale_that_was_measured():
    weight = gaussian()
    plain, scaled = quantise(weight, "fp8"), quantise(weight, "fp8", input_scale=0.25)
    assert stated(plain)["full_precision_matrix_mult"] is True and "input_scale" not in plain.parts
    assert "full_precision_matrix_mult" not in stated(scaled)
    assert scaled.parts["input_scale"].dtype == torch.float32 and scaled.parts["input_scale"].item() == 0.25
    assert quantise(weight, "nvfp4", input_scale=0.25).parts["input_scale"].ndim == 0
    assert "input_scale" not in quantise(weight, "int8", input_scale=0.25).parts


@pytest.mark.parametrize("form", ["fp8", "nvfp4"])
def test_the_scale_of_an_input_is_comfy_kitchens(form):
    x = gaussian(16, 64) * 100
    layout = {"fp8": "TensorCoreFP8Layout", "nvfp4": "TensorCoreNVFP4Layout"}[form]
    own = kitchen.QuantizedTensor.from_float(x, layout, scale="recalculate")._params.scale.item()
    assert input_scale(form, x.abs().max().item()) == pytest.approx(own)


def test_formats_that_find_the_scale_of_an_input_themselves_store_none():
    assert [input_scale(form, 10.0) for form in ("int8", "mxfp8", "w4a8", "w4a4", "gguf-q8_0")] == [None] * 5
    assert input_scale("fp8", None) is None and input_scale("fp8", 0.0) is None


@pytest.mark.parametrize("form", RECIPES)
def test_zeros_stay_zeros(form):
    weight = torch.zeros(20, 320)
    made = quantise(weight, form)
    assert not made.dequantised().any() and made.error(weight) == 0.0
    half = gaussian()
    half[10:30] = 0.0
    assert not quantise(half, form).dequantised()[10:30].any()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("form", RECIPES)
def test_what_is_no_number_is_refused_by_the_name_of_the_layer(form, bad):
    weight = gaussian()
    weight[3, 5] = bad
    with pytest.raises(InputError, match=r"^blocks\.7 has numbers that are not finite"):
        quantise(weight, form, name="blocks.7")


@pytest.mark.parametrize(
    "weight", [torch.zeros(4), torch.zeros(4, 4, 1, 1), torch.zeros(0, 4), torch.zeros(4, 4).int()]
)
def test_only_matrices_of_fractions_are_quantised(weight):
    with pytest.raises(InputError, match="only matrices"):
        quantise(weight, "int8")


def test_an_unknown_format():
    with pytest.raises(InputError, match=r'unknown format "int3", expected one of int8, '):
        quantise(gaussian(), "int3")


def test_without_comfy_kitchen(monkeypatch):
    monkeypatch.setitem(sys.modules, "comfy_kitchen", None)
    with pytest.raises(InputError, match="pip install comfy-kitchen"):
        quantise(gaussian(), "int8")


def test_a_comfy_kitchen_without_the_format(monkeypatch):
    monkeypatch.delattr(kitchen, "AsymW4A8Int8Layout")
    with pytest.raises(InputError, match=r"does not know w4a8: pip install --upgrade comfy-kitchen"):
        quantise(gaussian(), "w4a8")


def test_a_comfy_kitchen_that_cannot_start(monkeypatch):
    """As with some versions of Triton where there is no GPU, and of PyTorch without the number types."""

    def fail(*args, **settings):
        raise RuntimeError("0 active drivers")

    for form in RECIPES:
        check_available(form)
    monkeypatch.setattr(kitchen.TensorCoreMXFP8Layout, "quantize", fail)
    with pytest.raises(InputError, match=r"cannot make mxfp8 \(0 active drivers\): pip install --upgrade"):
        check_available("mxfp8")
