"""The numbers of every format against comfy-kitchen, and layers that compute with them."""

import json

import pytest
import torch
import torch.nn.functional as F
from comfy_kitchen.tensor import QuantizedTensor
from torch import nn

from sana_core.checkpoint.weights import misfits
from sana_core.quantised import gguf_blocks, kitchen
from sana_core.quantised.formats import FORMATS, MARK
from sana_core.quantised.layers import QuantisedEmbedding, QuantisedLinear, QuantisedWeight, hold_quantised

KITCHEN = {  # what stands in the mark, and what comfy-kitchen is told
    "float8_e4m3fn": ("TensorCoreFP8Layout", {}, {}),
    "mxfp8": ("TensorCoreMXFP8Layout", {}, {}),
    "nvfp4": ("TensorCoreNVFP4Layout", {}, {}),
    "int8_tensorwise": ("TensorWiseINT8Layout", {"per_channel": True}, {}),
    "int8_tensorwise, one scale": ("TensorWiseINT8Layout", {}, {}),
    "int8_tensorwise, rotated": (
        "TensorWiseINT8Layout",
        {"per_channel": True, "convrot": True, "convrot_groupsize": 16},
        {"convrot": True, "convrot_groupsize": 16},
    ),
    "convrot_w4a4": ("TensorCoreConvRotW4A4Layout", {"convrot_groupsize": 64}, {"convrot_groupsize": 64}),
    "asym_w4a8_int8": (
        "AsymW4A8Int8Layout",
        {"convrot_groupsize": 64, "group_size": 32},
        {"convrot_groupsize": 64, "group_size": 32},
    ),
    "asym_w4a8_int8, no codebook": (
        "AsymW4A8Int8Layout",
        {"convrot_groupsize": 256, "codebook": False},
        {},
    ),
}
SHAPES = [(256, 256), (90, 512), (300, 768)]


def made(case, shape, generator):
    """A weight in a format by comfy-kitchen: the weight that holds it, and comfy-kitchen's numbers."""
    layout, options, stated = KITCHEN[case]
    tensor = QuantizedTensor.from_float(torch.randn(shape, generator=generator), layout, **options)
    form = FORMATS[case.partition(",")[0]].with_settings(stated)
    return QuantisedWeight(form, shape, tensor.state_dict("weight")), tensor.dequantize()


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("case", KITCHEN)
def test_the_numbers_are_comfy_kitchens(case, shape, generator):
    weight, expected = made(case, shape, generator)
    assert torch.equal(weight.numbers(torch.float32), expected.float())


@pytest.mark.parametrize("case", KITCHEN)
def test_what_comfy_kitchen_writes_fits_the_table(case, generator):
    weight, _ = made(case, (90, 512), generator)
    mark = torch.tensor(list(json.dumps({"format": weight.form.name, **weight.form.settings}).encode()))
    tensors = {f"a.{name}": part for name, part in weight.parts.items()} | {f"a.{MARK}": mark.to(torch.uint8)}
    assert not misfits(tensors, {"a.weight": torch.empty(90, 512)})


@pytest.mark.parametrize("case", ["nvfp4", "mxfp8", "asym_w4a8_int8", "float8_e4m3fn"])
def test_numbers_stored_as_bytes(case, generator):
    weight, expected = made(case, (90, 512), generator)
    parts = {name: p.view(torch.uint8) if p.element_size() == 1 else p for name, p in weight.parts.items()}
    assert torch.equal(QuantisedWeight(weight.form, (90, 512), parts).numbers(torch.float32), expected.float())


def test_smoothing_of_the_input_is_part_of_the_weight(generator):
    weight, expected = made("nvfp4", (90, 512), generator)
    weight.register_buffer("pre_quant_scale", torch.rand(512, generator=generator))
    x = torch.randn(3, 512, generator=generator)
    wanted = F.linear(x * weight.pre_quant_scale, expected)
    torch.testing.assert_close(F.linear(x, weight.numbers(torch.float32)), wanted)


@pytest.mark.parametrize("case", [case for case in KITCHEN if case not in ("nvfp4", "mxfp8")])
def test_products_by_comfy_kitchen(case, generator):
    """Its operations for the CPU, which has none for nvfp4 and mxfp8. They round the input to 8 or 4 bits too."""
    weight, expected = made(case, (96, 256), generator)
    x, bias = torch.randn(2, 5, 256, generator=generator), torch.randn(96, generator=generator)
    if case == "float8_e4m3fn":
        weight.register_buffer("input_scale", x.abs().max() / 448)
    y, wanted = kitchen.product(x, weight, bias), F.linear(x, expected, bias)
    assert y.shape == wanted.shape
    assert (y - wanted).norm() / wanted.norm() < (0.15 if case == "convrot_w4a4" else 0.03)


def test_no_kernel_without_a_gpu(generator):
    weight, _ = made("int8_tensorwise", (96, 256), generator)
    assert kitchen.linear(torch.randn(2, 256), weight, None) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", KITCHEN)
def test_a_layer_computes_with_the_numbers(case, dtype, generator):
    weight, expected = made(case, (90, 512), generator)
    bias, x = torch.randn(90, generator=generator).to(dtype), torch.randn(2, 3, 512, generator=generator).to(dtype)
    layer = QuantisedLinear(weight, bias)
    assert torch.equal(layer(x), F.linear(x, expected.to(dtype), bias))


def test_a_product_of_low_rank_beside_a_layer(generator):
    weight, expected = made("int8_tensorwise", (90, 512), generator)
    layer, x = QuantisedLinear(weight, None), torch.randn(3, 512, generator=generator)
    up, down = torch.randn(90, 4, generator=generator), torch.randn(4, 512, generator=generator)
    layer.add_beside(up, down)
    layer.add_beside(-0.5 * up, down)
    wanted = F.linear(x, expected + 0.5 * up @ down)
    torch.testing.assert_close(layer(x), wanted, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(layer.plain(torch.float32)(x), wanted, rtol=1e-4, atol=1e-3)


def test_a_conversion_leaves_the_stored_tensors_as_they_are(generator):
    weight, _ = made("float8_e4m3fn", (90, 512), generator)
    layer = QuantisedLinear(weight, torch.zeros(90)).to(torch.bfloat16)
    assert {name: part.dtype for name, part in layer.quantised.parts.items()} == {
        "weight": torch.float8_e4m3fn,
        "weight_scale": torch.float32,
    }
    assert layer.bias.dtype == torch.bfloat16
    assert next(layer.to("meta").quantised.buffers()).is_meta


TABLES = ["float8_e4m3fn", "int8_tensorwise", "int8_tensorwise, one scale", "int8_tensorwise, rotated"]


@pytest.mark.parametrize("case", [*TABLES, "gguf"])
def test_rows_of_a_quantised_table(case, generator):
    if case == "gguf":
        packed = gguf_blocks.quantise(torch.randn(90, 512, generator=generator), "q8_0")
        weight = QuantisedWeight(FORMATS["gguf_q8_0"], (90, 512), {"weight": packed})
        expected = gguf_blocks.dequantise(packed, "q8_0")
    else:
        weight, expected = made(case, (90, 512), generator)
    indices = torch.randint(0, 90, (2, 7), generator=generator)
    table = QuantisedEmbedding(weight, nn.Embedding(90, 512, device="meta"), torch.float32)
    assert torch.equal(table(indices), expected[indices])


def test_a_scaling_embedding_still_scales(generator):
    class Scaled(nn.Embedding):
        def forward(self, indices):
            return super().forward(indices) * 3

    weight, expected = made("int8_tensorwise", (90, 512), generator)
    table = QuantisedEmbedding(weight, Scaled(90, 512, padding_idx=0, device="meta"), torch.float32)
    indices = torch.tensor([[5, 0, 5]])
    assert torch.equal(table(indices), 3 * expected[indices])


def test_layers_take_their_place_in_a_network(generator):
    network = nn.ModuleDict({"a": nn.ModuleList([nn.Linear(512, 90)]), "b": nn.Linear(4, 4)}).to("meta")
    weight, _ = made("int8_tensorwise", (90, 512), generator)
    bias, plain = torch.randn(90), torch.randn(4, 4)
    tensors = {f"a.0.{name}": part for name, part in weight.parts.items()}
    tensors |= {"a.0.bias": bias, f"a.0.{MARK}": torch.zeros(2), "b.weight": plain, "b.bias": torch.zeros(4)}
    hold_quantised(network, {"a.0": weight.form}, tensors)
    assert set(tensors) == {"b.weight", "b.bias"}
    assert torch.equal(
        network["a"][0](torch.ones(1, 512)), F.linear(torch.ones(1, 512), weight.numbers(torch.float32), bias)
    )
