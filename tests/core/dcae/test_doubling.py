"""Doubling by folded weights and shortcuts by views are what they replace."""

import pytest
import torch
import torch.nn.functional as F
from agreement import error
from torch.utils._python_dispatch import TorchDispatchMode

from sana_core.dcae.doubling import PHASES, add_averages, doubled_convolution, phase_weights, spread_channels
from sana_core.dcae.layers import InterpolateUpsample, LiteMLA, ResBlock
from sana_core.kernels.rms_norm import rms_norm_2d
from sana_core.kit import Kit


def maps(*shape, dtype=torch.float64, seed=0):
    x = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def upsampling(in_channels=8, out_channels=4, dtype=torch.float64):
    layer = InterpolateUpsample(in_channels, out_channels, Kit(dtype=dtype)).requires_grad_(False)
    layer.conv.weight.copy_(maps(*layer.conv.weight.shape, seed=1) * 0.2)
    return layer


def unfolded(layer, x):
    y = F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), layer.conv.weight, layer.conv.bias, padding=1)
    repeats = 4 * y.shape[1] // x.shape[1]
    return y + F.pixel_shuffle(x.repeat_interleave(repeats, dim=1), 2)


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (4, 1), (3, 5)])
@pytest.mark.parametrize("channels", [(8, 2), (8, 4), (8, 8), (8, 16)])
def test_upsampling(size, channels):
    layer, x = upsampling(*channels), maps(2, channels[0], *size)
    found = layer(x)
    assert error(found, unfolded(layer, x)) < 1e-14
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_a_layer_with_a_hook_or_another_class_is_called():
    layer, x, seen = upsampling(), maps(1, 8, 3, 5), []
    expected = unfolded(layer, x)
    handle = layer.conv.register_forward_hook(lambda module, given, made: seen.append(made.shape))
    assert error(layer(x), expected) < 1e-14 and seen == [(1, 4, 6, 10)]
    handle.remove()
    layer.conv = torch.nn.Sequential(layer.conv)
    assert error(layer(x), expected) < 1e-14


def test_weights_that_change_count_at_once():
    layer, x = upsampling(), maps(1, 8, 3, 5)
    before = layer(x)
    layer.conv.weight.mul_(2)
    assert error(layer(x), unfolded(layer, x)) < 1e-14 and error(layer(x), before) > 0.1
    assert list(layer.state_dict()) == ["conv.weight", "conv.bias"]
    layer.to(torch.float32)
    assert error(layer(x.float()), unfolded(layer, x.float())) < 1e-5


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_sums_of_weights_are_rounded_once(memory_format):
    weight = maps(4, 8, 3, 3, dtype=torch.bfloat16).contiguous(memory_format=memory_format)
    found = phase_weights(weight)
    assert found.shape == (16, 8, 2, 2) and found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found, phase_weights(weight.float()).bfloat16())


def test_folding_in_bfloat16_costs_half_as_much_again_at_the_most():
    """At this layer: sums of weights are rounded once more. In the embedded model's pictures it does not show."""
    layer, x = upsampling(64, 32, torch.bfloat16), maps(1, 64, 9, 9, dtype=torch.bfloat16)
    exact = unfolded(upsampling(64, 32).to(torch.bfloat16).double(), x.double())
    far, near = ((made.double() - exact).square().mean().sqrt() for made in (layer(x), unfolded(layer, x)))
    assert far < 1.5 * near


def test_gradients_pass():
    layer, x = upsampling(), maps(1, 8, 3, 5).requires_grad_()
    layer.requires_grad_(True)
    wanted = [x, layer.conv.weight, layer.conv.bias]
    found, expected = (torch.autograd.grad(y.square().sum(), wanted) for y in (layer(x), unfolded(layer, x)))
    for a, b in zip(found, expected):
        assert error(a, b) < 1e-13


@pytest.mark.parametrize("channels", [(8, 32), (8, 16), (8, 8), (8, 4)])
def test_averages(channels):
    x, y = maps(2, channels[0], 6, 10), maps(2, channels[1], 3, 5, seed=2)
    expected = y + F.pixel_unshuffle(x, 2).unflatten(1, (channels[1], -1)).mean(dim=2)
    assert error(add_averages(y, x), expected) < 1e-14


def test_spreading_takes_any_phases():
    x, phases = maps(1, 8, 3, 5), [maps(1, 8, 3, 5, seed=seed) for seed in range(4)]
    expected = F.pixel_shuffle(x.repeat_interleave(4, dim=1), 2)
    for (a, b), phase in zip(PHASES, phases):
        expected[..., a::2, b::2] += phase
    assert error(spread_channels(phases, x), expected) < 1e-14


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_norm_with_residual(dtype):
    x, residual, weight, bias = maps(2, 8, 3, 5), maps(2, 8, 3, 5, seed=1), maps(8, seed=2), maps(8, seed=3)
    x, residual, weight, bias = (t.to(dtype) for t in (x, residual, weight, bias))
    before = residual.clone()
    found = rms_norm_2d(x, weight, bias, residual)
    assert torch.equal(found, rms_norm_2d(x, weight, bias) + residual) and torch.equal(residual, before)


def test_blocks_add_what_their_branches_give():
    block, x = ResBlock(32, Kit(dtype=torch.float64)), maps(2, 32, 3, 5)
    assert torch.equal(block(x), x + block.branch(x))


def test_attention_with_hooks_is_the_same():
    attention, x = LiteMLA(64, Kit(dtype=torch.float64)).requires_grad_(False), maps(2, 64, 3, 5)
    found = attention(x)
    for layer in attention.modules():
        layer.register_forward_hook(lambda *call: None)
    assert error(attention(x), found) < 1e-13


def test_doubled_convolution_makes_no_large_map():
    class Largest(TorchDispatchMode):
        numbers = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            made = func(*args, **(kwargs or {}))
            if isinstance(made, torch.Tensor):
                self.numbers = max(self.numbers, made.numel())
            return made

    x, weight = maps(1, 16, 20, 20), maps(4, 16, 3, 3)
    with Largest() as largest:
        doubled_convolution(x, weight, None)
    assert largest.numbers == 4 * 4 * 21 * 21
