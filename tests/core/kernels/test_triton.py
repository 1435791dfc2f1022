"""The Triton kernels against float64, see `triton_checks.py`."""

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("triton")

from triton_checks import run_checks

from sana_core.kernels.triton.gated_depthwise import gated_depthwise
from sana_core.kernels.triton.linear_attention import attend, attention_state, linear_attention, split
from sana_core.kernels.triton.modulation import gated_residual, gated_residual_norm, modulated_norm
from sana_core.kernels.triton.rms_norm import rms_norm_2d

TOLERANCE = {torch.bfloat16: 2e-3, torch.float16: 2e-3, torch.float32: 1e-5}
every_dtype = pytest.mark.parametrize("dtype", list(TOLERANCE), ids=lambda dtype: str(dtype).removeprefix("torch."))


@pytest.mark.slow
def test_all_checks_by_the_interpreter():
    run_checks(__file__)


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_close(found, expected):
    """found, in its own number type, against expected in float64."""
    assert found.shape == expected.shape and expected.dtype == torch.float64
    error = ((found.double() - expected).norm() / expected.norm()).item()
    rounding = torch.finfo(found.dtype).eps / 2  # of a single number; that of many is smaller on average
    allowed = TOLERANCE[found.dtype] if found.numel() >= 100 else max(TOLERANCE[found.dtype], rounding)
    assert error <= allowed, f"relative error {error:.1e}"


def wide(*tensors):
    return [x.double() if isinstance(x, torch.Tensor) else x for x in tensors]


# The formulas, for tensors of any number type.


def plain_state(key, value):
    key, value = F.relu(key).transpose(1, 2), value.transpose(1, 2)
    return key.mT @ value, key.sum(dim=-2).unsqueeze(-1)


def plain_attend(query, state, normalizer, eps):
    query = F.relu(query).transpose(1, 2)
    return ((query @ state) / (query @ normalizer + eps)).transpose(1, 2)


def plain_linear_attention(query, key, value, eps):
    return plain_attend(query, *plain_state(key, value), eps)


def plain_norm(x, shift, scale):
    centred = x - x.mean(dim=-1, keepdim=True)
    return centred * torch.rsqrt(centred.square().mean(dim=-1, keepdim=True) + 1e-6) * (1 + scale) + shift


def plain_residual(x, update, gate=None, limit=None):
    update = update if limit is None else update.clamp(-limit, limit)
    return x + (update if gate is None else gate * update)


def plain_residual_norm(x, update, gate, limit, shift, scale):
    x = plain_residual(x, update, gate, limit)
    return x, plain_norm(x, shift, scale)


def plain_gated_depthwise(maps, weight, bias):
    y, gate = F.conv2d(F.silu(maps), weight, bias, padding=1, groups=len(weight)).chunk(2, dim=1)
    return y * F.silu(gate)


def plain_rms_norm(x, weight, bias, residual=None):
    y = x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1e-5)
    y = y * weight[:, None, None] + bias[:, None, None]
    return y if residual is None else y + residual


# Linear attention.


def fused_qkv(batch, tokens, heads, dtype):
    """Slices of a fused projection, (B, N, 3 H D)."""
    return [x.unflatten(-1, (heads, 32)) for x in normal(batch, tokens, 96 * heads, dtype=dtype).chunk(3, dim=-1)]


def interleaved_qkv(batch, tokens, heads, dtype):
    """As in DC-AE: each head owns its q, k and v."""
    return normal(batch, tokens, heads, 3, 32, dtype=dtype).unbind(3)


@every_dtype
@pytest.mark.parametrize(
    ("make", "batch", "tokens", "heads", "eps"),
    [
        (fused_qkv, 1, 1, 1, 1e-8),
        (fused_qkv, 3, 77, 3, 1e-8),
        (fused_qkv, 2, 600, 2, 1e-8),
        (interleaved_qkv, 4, 130, 2, 1e-15),
        (interleaved_qkv, 1, 1217, 1, 1e-15),  # more splits than the second kernel adds up
    ],
)
def check_linear_attention(make, batch, tokens, heads, eps, dtype):
    query, key, value = make(batch, tokens, heads, dtype)
    found = linear_attention(query, key, value, eps)
    assert found.dtype == dtype and found.is_contiguous()
    assert_close(found, plain_linear_attention(*wide(query, key, value), eps))
    state, normalizer = attention_state(key, value)
    expected = plain_state(*wide(key, value))
    assert_close(state, expected[0])
    assert_close(normalizer, expected[1])
    apart = attend(query, state, normalizer, eps)
    assert apart.dtype == dtype and apart.is_contiguous()
    assert_close(apart, plain_attend(*wide(query), *expected, eps))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def check_sums_beyond_float16(dtype):
    query, key, value = (x.abs() * 40 for x in interleaved_qkv(1, 16384, 1, dtype))
    state, normalizer = plain_state(*wide(key, value))
    assert state.min() > 65504 and normalizer.min() > 65504
    assert_close(linear_attention(query, key, value, 1e-15), plain_linear_attention(*wide(query, key, value), 1e-15))


def check_token_without_positive_query():
    query, key, value = fused_qkv(1, 9, 1, torch.float16)
    query[:, 4] = -1
    found = linear_attention(query, key, value, 1e-15)
    assert torch.equal(found[:, 4], torch.zeros_like(found[:, 4])) and found.isfinite().all()


def check_nan_is_not_lost():
    query, key, value = fused_qkv(1, 9, 1, torch.float16)
    state, normalizer = attention_state(key, value)
    state.view(torch.int32)[..., 0] = 0x7FFFFFFF  # the NaN of GPUs
    found = attend(query, state, normalizer, 1e-8)
    assert found[..., 0].isnan().all() and found[..., 1:].isfinite().all()
    for broken in (key, value):
        broken[0, 3] = float("nan")
        assert linear_attention(query, key, value, 1e-8).isnan().all()


def check_splits_cover_all_tokens():
    for tokens in (1, 127, 128, 1024, 16384, 999_999):
        for sequences in (1, 7, 72, 140, 4096):
            splits, each = split(tokens, sequences)
            assert splits * each >= tokens > (splits - 1) * each


# Modulation.


def modulation_inputs(batch, tokens, channels, rows, dtype):
    """x and update as parts of larger tensors; gate, shift and scale as rows of a table (rows, 3, C)."""
    x, update = normal(batch, tokens + 2, 2, channels + 5, dtype=dtype)[:, 1:-1, :, 3:-2].unbind(2)
    gate, shift, scale = normal(rows, 3, channels, seed=1, dtype=dtype).chunk(3, dim=1)
    return x * 3 + 1, update * 40, gate, shift, scale


@every_dtype
@pytest.mark.parametrize(
    ("batch", "tokens", "channels", "rows"),
    [(1, 1, 3, 1), (3, 5, 35, 3), (2, 7, 300, 1), (4, 3, 1152, 4), (2, 5, 2240, 2), (1, 2, 5000, 1)],
)
def check_modulation(batch, tokens, channels, rows, dtype):
    x, update, gate, shift, scale = modulation_inputs(batch, tokens, channels, rows, dtype)
    found = modulated_norm(x, shift, scale)
    assert found.dtype == dtype and found.is_contiguous()
    assert_close(found, plain_norm(*wide(x, shift, scale)))
    for gates in (gate, None):
        for limit in (30.0, None):
            added = gated_residual(x, update, gates, limit)
            assert added.dtype == dtype and added.is_contiguous()
            assert_close(added, plain_residual(*wide(x, update, gates, limit)))
            both = gated_residual_norm(x, update, gates, limit, shift, scale)
            assert torch.equal(both[0], added)
            assert_close(both[1], plain_norm(*wide(added, shift, scale)))


def check_infinite_updates_are_clamped():
    x, update, gate, _, _ = modulation_inputs(1, 2, 16, 1, torch.float16)
    update[0, 0, 0], update[0, 0, 1], update[0, 0, 2] = float("inf"), float("-inf"), float("nan")
    found = gated_residual(x, update, gate * 1e-2, 65504.0)
    assert found[0, 0, :2].isfinite().all() and found[0, 0, 2].isnan() and found[0, 0, 3:].isfinite().all()


def check_too_many_channels_are_refused():
    with pytest.raises(ValueError, match="9000 channels"):
        modulated_norm(torch.zeros(1, 1, 9000), torch.zeros(1, 1, 9000), torch.zeros(1, 1, 9000))
    with pytest.raises(ValueError, match="5000 channels"):
        rms_norm_2d(torch.zeros(1, 5000, 1, 1), torch.zeros(5000), torch.zeros(5000))


# Maps.


def maps_of(batch, channels, height, width, dtype, seed=0):
    """A crop of a larger map that is channels-last in memory."""
    whole = normal(batch, height + 3, width + 2, channels, seed=seed, dtype=dtype).movedim(-1, 1)
    return whole[:, :, 1 : height + 1, 2:]


@every_dtype
@pytest.mark.parametrize(
    ("batch", "channels", "height", "width"),
    [(1, 1, 1, 1), (2, 5, 1, 7), (1, 3, 2, 1), (2, 33, 3, 17), (1, 128, 4, 16), (4, 130, 1, 3)],
)
def check_gated_depthwise(batch, channels, height, width, dtype):
    maps = maps_of(batch, 2 * channels, height, width, dtype) * 2
    weight = normal(2 * channels, 1, 3, 3, seed=1, dtype=dtype)
    bias = normal(2 * channels, seed=2, dtype=dtype)
    if batch % 2:
        maps = maps.contiguous(memory_format=torch.channels_last)
    found = gated_depthwise(maps, weight, bias)
    assert found.dtype == dtype and found.is_contiguous(memory_format=torch.channels_last)
    assert_close(found, plain_gated_depthwise(*wide(maps, weight, bias)))


@every_dtype
@pytest.mark.parametrize(
    ("batch", "channels", "height", "width"),
    [(1, 1, 1, 1), (2, 35, 3, 40), (3, 64, 2, 33), (4, 100, 5, 31), (1, 256, 7, 17), (2, 512, 3, 9), (1, 1024, 5, 6),
     (1, 2000, 2, 3), (1, 4096, 2, 2)],
)  # fmt: skip
def check_rms_norm(batch, channels, height, width, dtype):
    x = maps_of(batch, channels, height, width, dtype) * 3
    residual = maps_of(batch, channels, height, width, dtype, seed=3)
    weight, bias = normal(channels, seed=1, dtype=dtype), normal(channels, seed=2, dtype=dtype)
    for added in (None, residual, residual.contiguous(memory_format=torch.channels_last)):
        found = rms_norm_2d(x, weight, bias, added)
        assert found.dtype == dtype and found.is_contiguous(memory_format=torch.channels_last)
        assert_close(found, plain_rms_norm(*wide(x, weight, bias, added)))


# The operations as PyTorch sees them.


def examples(dtype=torch.float32):
    """name -> operation, its formula, arguments for both."""
    query, key, value = fused_qkv(2, 19, 2, dtype)
    x, update, gate, shift, scale = modulation_inputs(2, 5, 35, 2, dtype)
    maps, weight, bias = maps_of(2, 10, 3, 5, dtype), normal(10, 1, 3, 3, dtype=dtype), normal(10, dtype=dtype)
    state, normalizer = plain_state(*wide(key, value))
    return {
        "linear_attention": (linear_attention, plain_linear_attention, (query, key, value, 1e-8)),
        "attention_state": (attention_state, plain_state, (key, value)),
        "attend": (attend, plain_attend, (query, state.float(), normalizer.float(), 1e-8)),
        "modulated_norm": (modulated_norm, plain_norm, (x, shift, scale)),
        "gated_residual": (gated_residual, plain_residual, (x, update, gate, 30.0)),
        "ungated_residual": (gated_residual, plain_residual, (x, update)),
        "gated_residual_norm": (gated_residual_norm, plain_residual_norm, (x, update, gate, 30.0, shift, scale)),
        "ungated_residual_norm": (gated_residual_norm, plain_residual_norm, (x, update, None, None, shift, scale)),
        "gated_depthwise": (gated_depthwise, plain_gated_depthwise, (maps, weight, bias)),
        "rms_norm_2d": (rms_norm_2d, plain_rms_norm, (maps, bias, bias, maps)),
        "bare_rms_norm_2d": (rms_norm_2d, plain_rms_norm, (maps, bias, bias)),
    }


every_example = pytest.mark.parametrize("name", list(examples()))


def with_gradients(arguments):
    return [x.detach().clone().requires_grad_() if isinstance(x, torch.Tensor) else x for x in arguments]


def as_tuple(outputs):
    return outputs if isinstance(outputs, tuple) else (outputs,)


@every_example
def check_operation(name):
    op, _, arguments = examples()[name]
    torch.library.opcheck(getattr(torch.ops.sana, op.__name__).default, with_gradients(arguments))


@every_example
def check_result_does_not_depend_on_the_way(name):
    """Past the dispatcher, through it, and under a mode that looks on."""
    from sana_core.live_memory import LiveMemory

    op, _, arguments = examples()[name]
    with torch.no_grad():
        direct = as_tuple(op(*arguments))
        with LiveMemory() as memory:
            watched = as_tuple(op(*arguments))
    dispatched = as_tuple(op(*arguments))
    assert memory.peak_bytes == sum(x.numel() * x.element_size() for x in direct)
    for x, y, z in zip(direct, watched, dispatched, strict=True):
        assert torch.equal(x, y) and torch.equal(x, z) and x.stride() == y.stride() == z.stride()


@every_example
def check_fake_results(name):
    from torch._subclasses.fake_tensor import FakeTensorMode

    op, _, arguments = examples(torch.bfloat16)[name]
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fakes = as_tuple(op(*(mode.from_tensor(x) if isinstance(x, torch.Tensor) else x for x in arguments)))
    for fake, real in zip(fakes, as_tuple(op(*arguments)), strict=True):
        assert (fake.shape, fake.stride(), fake.dtype) == (real.shape, real.stride(), real.dtype)


@every_example
def check_compiles_in_one_graph(name):
    torch.compiler.reset()
    op, _, arguments = examples()[name]
    compiled = torch.compile(lambda *inputs: op(*inputs), fullgraph=True, backend="aot_eager")
    for found, expected in zip(as_tuple(compiled(*arguments)), as_tuple(op(*arguments)), strict=True):
        assert torch.equal(found, expected)


@every_example
def check_gradients(name):
    op, formula, arguments = examples()[name]
    inputs = with_gradients(arguments)
    doubles = with_gradients(wide(*arguments))
    outputs, expected = as_tuple(op(*inputs)), as_tuple(formula(*doubles))
    directions = [normal(*x.shape, seed=9 + i) for i, x in enumerate(outputs)]
    torch.autograd.backward(outputs, directions)
    torch.autograd.backward(expected, wide(*directions))
    for x, y in zip(inputs, doubles):
        if isinstance(x, torch.Tensor):
            assert_close(x.grad, y.grad)


def check_gradient_of_one_input_leaves_the_others_as_they_were():
    maps, weight, bias = examples()["gated_depthwise"][2]
    before = maps.clone()
    gated_depthwise(maps, weight.requires_grad_(), bias).sum().backward()
    assert weight.grad is not None and torch.equal(maps, before)
