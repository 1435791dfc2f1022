"""Adapters beside frozen layers: without effect at first, taken off again, in their own number type."""

import copy
import math

import pytest
import tiny
import torch
from torch import nn

from sana_core.errors import CheckpointError, InputError
from sana_core.training.lora_layers import (
    ATTENTION,
    ATTENTION_QKV,
    FEED_FORWARD,
    AdaptedLinear,
    Adapter,
    attach_lora,
    row_lengths,
)

LATENT = torch.randn(1, 32, 2, 2, generator=torch.Generator().manual_seed(0))
CONTEXT = torch.randn(1, 3, 96, generator=torch.Generator().manual_seed(1))
TIME = torch.tensor([400.0])
ALL = (*ATTENTION, *FEED_FORWARD)


def draw(model):
    return model(LATENT, TIME, CONTEXT)


@pytest.mark.parametrize("dora", [False, True])
def test_it_begins_without_effect_and_only_it_learns(dora):
    model = tiny.transformer().requires_grad_(True)
    lora = attach_lora(model, rank=4, seed=0, dora=dora)
    torch.testing.assert_close(draw(model), draw(tiny.transformer()), atol=1e-5, rtol=1e-5)
    draw(model).square().mean().backward()
    learning = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert learning and all("lora_" in name for name in learning)
    assert len(lora.names) == 16  # q, k, v, out of two attentions in two blocks
    assert len(learning) == 16 * (3 if dora else 2)


@pytest.mark.parametrize("targets, layers", [(ATTENTION_QKV, 6), (ATTENTION, 8), (FEED_FORWARD, 2), (ALL, 10)])
def test_targets(targets, layers):
    lora = attach_lora(tiny.transformer(depth=1), rank=2, seed=0, targets=targets)
    assert len(lora.names) == layers and not any("conv_depth" in name for name in lora.names)


def test_the_keys_and_shapes_are_those_of_diffusers():
    lora = attach_lora(tiny.transformer(depth=1), rank=2, seed=0, targets=ALL, dora=True)
    shapes = {key: tuple(tensor.shape) for key, tensor in lora.tensors().items()}
    block = "transformer.transformer_blocks.0"
    assert shapes[f"{block}.attn1.to_q.lora_A.weight"] == (2, 224)
    assert shapes[f"{block}.attn2.to_out.0.lora_B.weight"] == (224, 2)
    assert shapes[f"{block}.attn2.to_out.0.lora_magnitude_vector"] == (224,)
    assert shapes[f"{block}.ff.conv_inverted.lora_A.weight"] == (2, 224, 1, 1)
    assert shapes[f"{block}.ff.conv_inverted.lora_B.weight"] == (1120, 2, 1, 1)
    assert shapes[f"{block}.ff.conv_inverted.lora_magnitude_vector"] == (1, 1120, 1, 1)


def test_alpha_scales_what_is_learnt():
    layer, x = nn.Linear(6, 5), torch.randn(3, 6)
    adapter = tiny.randomized(Adapter(6, 5, 4, 8.0))
    change = 2 * adapter.lora_B.weight @ adapter.lora_A.weight
    torch.testing.assert_close(AdaptedLinear(layer, adapter)(x), layer(x) + x @ change.T)


def test_a_dora_sets_the_lengths_of_rows():
    layer, x = nn.Linear(6, 5), torch.randn(3, 6)
    adapter = tiny.randomized(Adapter(6, 5, 4, 8.0))
    lengths = torch.rand(5) + 0.5
    adapter.lora_magnitude_vector = nn.Parameter(lengths)
    whole = layer.weight + 2 * adapter.lora_B.weight @ adapter.lora_A.weight
    expected = x @ (lengths[:, None] * nn.functional.normalize(whole)).T + layer.bias
    torch.testing.assert_close(AdaptedLinear(layer, adapter)(x), expected)
    torch.testing.assert_close(row_lengths(layer, adapter), whole.norm(dim=1))


# --- taken off


def test_the_network_is_what_it_was():
    model = tiny.transformer()
    model.proj_out.requires_grad_(True)
    modules, expected = dict(model.named_modules()), draw(model)
    learned = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    with pytest.raises(KeyError), attach_lora(model, rank=2, seed=0, targets=ALL) as lora:
        tiny.randomized(lora)
        assert not torch.equal(draw(model), expected)
        raise KeyError
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == learned
    found = dict(model.named_modules())
    assert found.keys() == modules.keys() and all(found[name] is layer for name, layer in modules.items())
    assert torch.equal(draw(model), expected)
    lora.detach()  # once more does nothing


def test_it_is_taken_off_and_put_on_for_a_comparison():
    model = tiny.transformer()
    lora = tiny.randomized(attach_lora(model, rank=2, seed=0))
    trained = draw(model)
    lora.detach()
    lora.attach(model)
    assert torch.equal(draw(model), trained)


def test_a_copy_for_an_average_copies_the_adapters_alone():
    model = tiny.transformer()
    lora = attach_lora(model, rank=2, seed=0)
    copied = copy.deepcopy(lora)
    assert copied.tensors().keys() == lora.tensors().keys()
    assert sum(p.numel() for p in copied.parameters()) == sum(p.numel() for p in lora.parameters())
    del model, lora
    copied.detach()  # nothing is left to take it off


# --- joined projections


def test_joined_projections_do_not_bypass_the_adapters():
    model = tiny.transformer()
    model.join_projections()
    plain, other = draw(model), tiny.transformer()
    loras = [tiny.randomized(attach_lora(network, rank=2, seed=0)) for network in (model, other)]
    with torch.no_grad():
        torch.testing.assert_close(draw(model), draw(other), atol=1e-5, rtol=1e-5)
        assert (draw(model) - plain).abs().max() > 1e-2
        loras[0].detach()
        torch.testing.assert_close(draw(model), plain, atol=1e-5, rtol=1e-5)
        model.join_projections()
        torch.testing.assert_close(draw(model), plain, atol=1e-5, rtol=1e-5)


# --- number types


@pytest.mark.parametrize("dora", [False, True])
def test_adapters_of_a_bfloat16_network_compute_in_float32(dora):
    layer, x = nn.Linear(64, 48).bfloat16(), torch.randn(3, 64).bfloat16()
    network = nn.ModuleDict({"to_q": layer}).requires_grad_(False)
    lora = attach_lora(network, rank=4, seed=0, targets=("to_q",), dora=dora)
    seen = []
    lora.by_name["to_q"].lora_B.register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    y = network["to_q"](x)
    assert y.dtype == torch.bfloat16 and seen == [torch.float32]
    assert all(parameter.dtype == torch.float32 for parameter in lora.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        assert network["to_q"](x.float()).dtype == torch.bfloat16 and seen[1] == torch.bfloat16
        network["to_q"](x.float()).float().sum().backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in lora.parameters())


def test_small_changes_of_the_adapters_are_kept_in_a_bfloat16_network():
    model = tiny.transformer(depth=1).bfloat16()
    lora = attach_lora(model, rank=2, seed=0)
    before = lora.adapters[0].lora_A.weight.clone()
    with torch.no_grad():
        lora.adapters[0].lora_A.weight.add_(1e-5)
    assert (lora.adapters[0].lora_A.weight != before).all()
    assert model(LATENT.bfloat16(), TIME, CONTEXT.bfloat16()).dtype == torch.bfloat16


# --- beginnings


def test_the_seed_alone_decides_how_it_begins():
    first, again, other = (attach_lora(tiny.transformer(), rank=2, seed=seed).tensors() for seed in (1, 1, 2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    key = "transformer.transformer_blocks.0.attn1.to_q.lora_A.weight"
    assert not torch.equal(first[key], other[key])
    many = torch.cat([tensor.flatten() for name, tensor in first.items() if "lora_A" in name])
    assert math.isclose(many.std(), 1 / 2, rel_tol=0.1)


@pytest.mark.parametrize("dora", [False, True])
def test_going_on_with_another_alpha_keeps_the_effect(dora):
    model, other = tiny.transformer(), tiny.transformer()
    lora = tiny.randomized(attach_lora(model, rank=4, alpha=6, seed=0, targets=ALL, dora=dora))
    further = attach_lora(other, rank=4, alpha=2, seed=7, targets=ALL, dora=dora, start=lora.tensors())
    torch.testing.assert_close(draw(other), draw(model), atol=1e-5, rtol=1e-4)
    assert further.by_name.keys() == lora.by_name.keys()


@pytest.mark.parametrize("changed, said", [
    ({"rank": 2}, "has rank 4, not 2: use its rank"), ({"dora": True}, "is a LoRA, not a DoRA"),
    ({"targets": ALL}, "lacks transformer.transformer_blocks.0.ff.conv_inverted.lora_A.weight"),
    ({"targets": ATTENTION_QKV}, r"has transformer\S+.to_out.0.lora_A.weight"),
    ({"depth": 1}, "besides: use its network"),
    ({"hidden_size": 448}, r"is of another network: \S+ is \(4, 224\) there, \(4, 448\) here"),
])  # fmt: skip
def test_what_cannot_go_on(changed, said):
    start = attach_lora(tiny.transformer(), rank=4, seed=0).tensors()
    model = tiny.transformer(**{key: changed.pop(key) for key in ("depth", "hidden_size") if key in changed})
    with pytest.raises(CheckpointError, match=said):
        attach_lora(model, start=start, **{"rank": 4, "seed": 0, **changed})
    assert not any(isinstance(layer, AdaptedLinear) for layer in model.modules())


@pytest.mark.parametrize("settings, said", [
    ({"targets": ("to_q", "to_query")}, "no linear layer of this network ends in to_query"),
    ({"targets": ("ff.conv_depth",)}, "no linear layer of this network ends in ff.conv_depth"),
    ({"targets": ()}, "no linear layer"), ({"rank": 0}, "rank 0"), ({"alpha": 0}, "alpha 0"),
    ({"alpha": math.nan}, "alpha nan"),
])  # fmt: skip
def test_settings_that_cannot_be_used(settings, said):
    model = tiny.transformer(depth=1).requires_grad_(True)
    with pytest.raises(InputError, match=said):
        attach_lora(model, **{"rank": 2, "seed": 0, **settings})
    assert all(parameter.requires_grad for parameter in model.parameters())
