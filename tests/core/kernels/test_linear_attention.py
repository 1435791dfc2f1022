"""Linear attention keeps its float32, whatever surrounds it."""

import pytest
import torch

from sana_core.kernels.linear_attention import attend, attention_state, linear_attention

ROUNDED = {torch.bfloat16: 2e-2, torch.float16: 2e-3}  # the largest error of one number, that of the last rounding


def heads(dtype, tokens=4096):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, tokens, 4, 32, generator=generator).to(dtype) for _ in range(3)]


def relative(found, expected):
    return ((found.double() - expected).abs().max() / expected.square().mean().sqrt()).item()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_does_not_reach_it(dtype):
    query, key, value = heads(dtype)
    expected = linear_attention(query.double(), key.double(), value.double(), eps=1e-8)
    plain = linear_attention(query, key, value, eps=1e-8)
    with torch.autocast("cpu", dtype=dtype):
        found = linear_attention(query, key, value, eps=1e-8)
        state, normalizer = attention_state(key, value)
        apart = attend(query, state, normalizer, eps=1e-8)
    assert state.dtype == normalizer.dtype == torch.float32 and found.dtype == apart.dtype == dtype
    assert torch.equal(found, plain) and torch.equal(apart, plain)
    assert relative(found, expected) < ROUNDED[dtype]


def test_autocast_is_on_again_afterwards():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        linear_attention(*heads(torch.bfloat16, tokens=8), eps=1e-8)
        assert torch.is_autocast_enabled("cpu")


def test_gradients_are_the_same_under_autocast():
    query, key, value = (x.requires_grad_() for x in heads(torch.float32, tokens=64))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total = linear_attention(query, key, value, eps=1e-8).sum()
    total.backward()
    inside = [x.grad for x in (query, key, value)]
    for x in (query, key, value):
        x.grad = None
    linear_attention(query, key, value, eps=1e-8).sum().backward()
    assert all(torch.equal(x.grad, grad) for x, grad in zip((query, key, value), inside))
