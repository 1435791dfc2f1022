"""A weight piece by piece has the numbers of the whole weight, and computing with it takes little memory."""

from __future__ import annotations

import pytest
import torch
from comfy_kitchen.tensor import QuantizedTensor

from bench.quantised import stored as count_stored
from sana_core.live_memory import LiveMemory
from sana_core.quantised import pieces
from sana_core.quantised.dequantise import dequantise
from sana_core.quantised.formats import FORMATS
from sana_core.quantised.gguf_blocks import quantise
from sana_core.quantised.layers import QuantisedWeight
from sana_core.quantised.pieces import dequantised_pieces
from sana_core.quantiser.making import RECIPES
from sana_core.quantiser.making import quantise as make

SHAPE = (300, 320)  # the last piece has 44 rows, and is padded in some formats


@pytest.fixture
def weight():
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(2))


def joined(form, parts, shape=SHAPE, tiles=1):
    found = list(dequantised_pieces(form, parts, shape, numbers=tiles * 128 * shape[1]))
    assert [start for start, _ in found] == list(range(0, shape[0], tiles * 128))
    return torch.cat([piece for _, piece in found])


def stored(weight, form):
    made = make(weight, form, input_scale=0.5)
    recipe = RECIPES[made.format]
    mark = {"convrot": form == "int8-convrot", "convrot_groupsize": 64, "group_size": 16}
    parts = {name: part for name, part in made.parts.items() if name != "comfy_quant"}
    return FORMATS[recipe.format].with_settings(mark), parts


@pytest.mark.parametrize("tiles", [1, 2])
@pytest.mark.parametrize("form", RECIPES)
def test_pieces_are_the_rows_of_the_whole(weight, form, tiles):
    rules, parts = stored(weight, form)
    whole = dequantise(rules.name, parts, rules.settings, SHAPE)
    assert torch.equal(joined(rules, parts, tiles=tiles), whole)


@pytest.mark.parametrize("form", ["mxfp8", "nvfp4"])
def test_scales_of_blocks_that_lie_flat(weight, form):
    rules, parts = stored(weight, form)
    whole = dequantise(rules.name, parts, rules.settings, SHAPE)
    assert torch.equal(joined(rules, {**parts, "weight_scale": parts["weight_scale"].flatten()}), whole)


def test_one_scale_for_all_and_one_for_each_row(weight):
    for options in ({}, {"per_channel": True}):
        parts = QuantizedTensor.from_float(weight, "TensorWiseINT8Layout", **options).state_dict("weight")
        rules = FORMATS["int8_tensorwise"]
        assert torch.equal(joined(rules, parts), dequantise(rules.name, parts, {}, SHAPE))


def test_what_belongs_to_columns_is_not_cut_even_in_a_square():
    square = torch.randn(320, 320, generator=torch.Generator().manual_seed(2))
    rules, parts = stored(square, "nvfp4")
    parts["pre_quant_scale"] = torch.linspace(0.5, 2.0, 320)
    whole = dequantise(rules.name, parts, rules.settings, (320, 320))
    assert torch.equal(joined(rules, parts, (320, 320)), whole)


@pytest.mark.parametrize("kind", ["q8_0", "q5_1", "q4_0"])
def test_gguf(weight, kind):
    rules, parts = FORMATS[f"gguf_{kind}"], {"weight": quantise(weight, kind)}
    assert torch.equal(joined(rules, parts), dequantise(rules.name, parts, {}, SHAPE))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("form", ["int8", "nvfp4", "w4a8"])
def test_a_weight_in_pieces_is_rounded_once(monkeypatch, weight, form, dtype):
    rules, parts = stored(weight, form)
    monkeypatch.setattr(pieces, "NUMBERS", 128 * 320)
    numbers = QuantisedWeight(rules, SHAPE, parts).numbers(dtype)
    assert torch.equal(numbers, dequantise(rules.name, parts, rules.settings, SHAPE).to(dtype))


@pytest.mark.parametrize("form", ["int8_tensorwise", "float8_e4m3fn", "nvfp4"])
def test_making_numbers_of_a_large_weight_takes_little_beside_them(form):
    shape = (11200, 2240)
    weight = QuantisedWeight(FORMATS[form], shape, count_stored(FORMATS[form], shape))
    with LiveMemory() as meter:
        weight.numbers(torch.bfloat16)
    assert 0 < meter.peak_bytes - 2 * shape[0] * shape[1] < 24e6  # the whole in float32 has 100e6
