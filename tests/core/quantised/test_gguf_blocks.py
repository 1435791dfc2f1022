"""GGUF's blocks: bit for bit what the gguf package computes."""

import gguf
import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from bench.networks import fake_gpu
from sana_core.errors import CheckpointError, InputError
from sana_core.quantised.gguf_blocks import BLOCKS, dequantise, quantise, quantise_q8_0, writable

HALVES = {  # where the float16 numbers of a block begin
    "q8_0": (0,), "q4_0": (0,), "q4_1": (0, 2), "q5_0": (0,), "q5_1": (0, 2), "q2_k": (80, 82), "q3_k": (108,),
    "q4_k": (0, 2), "q5_k": (0, 2), "q6_k": (208,), "iq4_nl": (0,), "iq4_xs": (0,),
}  # fmt: skip


def ggml(name):
    return gguf.GGMLQuantizationType[name.upper()]


def random_rows(name, rows=7, blocks=3):
    """Random bytes with sane scales."""
    block, generator = BLOCKS[name], np.random.default_rng(0)
    data = generator.integers(0, 256, (rows, blocks, block.size), dtype=np.uint8)
    for begin in HALVES[name]:
        scales = generator.normal(0, 0.02, (rows, blocks, 1)).astype(np.float16)
        data[..., begin : begin + 2] = scales.view(np.uint8)
    return data.reshape(rows, -1)


@pytest.mark.parametrize("name", BLOCKS)
def test_numbers_of_a_block(name, device):
    assert (BLOCKS[name].numbers, BLOCKS[name].size) == gguf.GGML_QUANT_SIZES[ggml(name)]
    rows = random_rows(name)
    expected = torch.from_numpy(gguf.quants.dequantize(rows, ggml(name)))
    found = dequantise(torch.from_numpy(rows).to(device), name)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.cpu(), expected, rtol=0 if device.type == "cpu" else 2e-7, atol=0)


@pytest.mark.parametrize("name", BLOCKS)
def test_any_number_of_dimensions(name):
    rows = torch.from_numpy(random_rows(name, rows=6))
    whole = dequantise(rows, name)
    assert torch.equal(dequantise(rows.reshape(2, 3, -1), name), whole.reshape(2, 3, -1))
    assert torch.equal(dequantise(rows[1], name), whole[1])
    assert torch.equal(dequantise(rows[::2], name), whole[::2])
    assert torch.equal(dequantise(rows[:, : BLOCKS[name].size], name), whole[:, : BLOCKS[name].numbers])
    assert dequantise(rows[:0], name).shape == (0, whole.shape[1])


def weight():
    values = torch.randn(9, 96, generator=torch.Generator().manual_seed(0))
    values[0, :32] = 0
    values[1, :32] = 0.5  # a block without a range
    values[2, 3], values[2, 4] = 4.0, -4.0  # two of the same size
    return values


@pytest.mark.parametrize("name", writable())
def test_quantise(name, device):
    values = weight()
    expected = torch.from_numpy(gguf.quants.quantize(values.numpy(), ggml(name)))
    found = quantise(values.to(device), name).cpu()
    if device.type == "cpu":
        assert torch.equal(found, expected)
    error = (dequantise(found, name) - values).norm() / values.norm()
    assert error < {"q8_0": 0.006, "q5_0": 0.05, "q5_1": 0.05, "q4_0": 0.1, "q4_1": 0.1}[name]
    assert torch.equal(quantise(values.half().float().half(), name), quantise(values.half().float(), name))


def test_random_rounding(device):
    values = weight()[3:].to(device)
    nearest = dequantise(quantise_q8_0(values), "q8_0")
    generator = torch.Generator(device).manual_seed(1)
    drawn = torch.stack([dequantise(quantise_q8_0(values, generator), "q8_0") for _ in range(300)])
    step = values.abs().amax() / 127
    assert (drawn - values).abs().max() <= step * 1.01
    assert (drawn.mean(0) - values).abs().max() < step * 0.15  # the nearest is off by up to half a step
    assert (nearest - values).abs().max() > step * 0.4
    again = quantise_q8_0(values, torch.Generator(device).manual_seed(1))
    assert torch.equal(again, quantise_q8_0(values, torch.Generator(device).manual_seed(1)))
    zeros = torch.zeros(2, 32, device=device)
    assert not dequantise(quantise_q8_0(zeros, generator), "q8_0").any()


def test_refusals():
    with pytest.raises(CheckpointError, match="iq1_s is not a known block type"):
        dequantise(torch.zeros(1, 50, dtype=torch.uint8), "iq1_s")
    with pytest.raises(CheckpointError, match="a row of 35 bytes is not whole blocks of q8_0"):
        dequantise(torch.zeros(1, 35, dtype=torch.uint8), "q8_0")
    with pytest.raises(CheckpointError, match="a row of 33 numbers is not whole blocks of q4_0"):
        quantise(torch.zeros(1, 33), "q4_0")
    with pytest.raises(InputError, match="q4_k is read, not written"):
        quantise(torch.zeros(1, 256), "q4_k")


@pytest.mark.parametrize("name", BLOCKS)
def test_all_of_it_is_on_the_device_of_the_bytes(name):
    """On tensors that pretend to be on a GPU, an operand on the CPU would be refused."""
    block, gpu = BLOCKS[name], fake_gpu()
    with FakeTensorMode():
        found = dequantise(torch.empty(4, 2 * block.size, dtype=torch.uint8, device=gpu), name)
        assert (found.device, found.shape, found.dtype) == (
            gpu,
            (4, 2 * block.numbers),
            torch.float32,
        )
        if block.pack:
            packed = quantise(torch.empty(4, 2 * block.numbers, dtype=torch.bfloat16, device=gpu), name)
            assert (packed.device, packed.shape) == (gpu, (4, 2 * block.size))
