"""What the Linear DiT must do whatever its weights are."""

import math

import pytest
import tiny
import torch

from sana_core.config import POSITIONS, PositionConfig
from sana_core.errors import InputError
from sana_core.kernels.linear_attention import linear_attention
from sana_core.kit import Kit
from sana_core.transformer.block import attend_to_itself
from sana_core.transformer.caption import attention_bias
from sana_core.transformer.embeddings import SinCosPosition, sinusoid
from sana_core.transformer.model import SanaTransformer

LATENT = torch.randn(2, 32, 4, 6, generator=torch.Generator().manual_seed(1))
CONTEXT = torch.randn(2, 7, 96, generator=torch.Generator().manual_seed(2))
TIME = torch.tensor([999.0, 250.5])


def test_masked_tokens_do_not_count():
    model, mask = tiny.transformer(), torch.tensor([[True] * 7, [True] * 3 + [False] * 4])
    expected = model(LATENT, TIME, CONTEXT, mask)
    noisy = CONTEXT.clone()
    noisy[1, 3:] = 100.0
    torch.testing.assert_close(model(LATENT, TIME, noisy, mask), expected)
    short = model(LATENT[1:], TIME[1:], CONTEXT[1:, :3])
    torch.testing.assert_close(short[0], expected[1], rtol=1e-4, atol=1e-5)
    assert (model(LATENT, TIME, CONTEXT)[1] - expected[1]).abs().max() > 1e-3


def test_items_of_a_batch_do_not_see_one_another():
    model = tiny.transformer(qk_norm=True)
    whole = model(LATENT, TIME, CONTEXT)
    for i in range(2):
        torch.testing.assert_close(
            model(LATENT[i : i + 1], TIME[i : i + 1], CONTEXT[i : i + 1])[0], whole[i], rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("changes", [{}, {"qk_norm": True}, {"position": POSITIONS["2k"]}])
def test_a_caption_that_remembers_gives_the_same(changes):
    model, mask = tiny.transformer(**changes), torch.tensor([[True] * 7, [True] * 3 + [False] * 4])
    caption = model.caption(CONTEXT, mask, remember=True)
    for time in (TIME, TIME / 2):
        assert torch.equal(model(LATENT, time, caption), model(LATENT, time, CONTEXT, mask))


def test_a_caption_computes_keys_and_values_once():
    model, computed = tiny.transformer(), []
    for block in model.blocks:
        block.attn2.to_k.register_forward_hook(lambda *_: computed.append(1))
    caption = model.caption(CONTEXT, remember=True)
    for _ in range(3):
        model(LATENT, TIME, caption)
    assert len(computed) == model.config.depth
    forgetful = model.caption(CONTEXT)
    for _ in range(3):
        model(LATENT, TIME, forgetful)
    assert len(computed) == 4 * model.config.depth


def test_a_caption_with_other_tokens_remembers_nothing_of_the_first():
    model = tiny.transformer()
    attention = model.blocks[0].attn2
    caption = model.caption(CONTEXT, remember=True)
    first, _ = caption.keys_values(attention)
    assert caption.with_tokens(caption.tokens) is caption
    changed = caption.with_tokens(2 * caption.tokens)
    assert not torch.equal(changed.keys_values(attention)[0], first)
    assert torch.equal(caption.keys_values(attention)[0], first)


def test_host_layers_and_attention_are_used():
    made = []

    class Ops:
        class Linear(torch.nn.Linear):
            def __init__(self, *args, **kwargs):
                super().__init__(*args, **kwargs)
                made.append(self)

        Conv2d, RMSNorm = torch.nn.Conv2d, torch.nn.RMSNorm

    calls = []

    def attention(query, key, value, heads, *, bias, options):
        calls.append((heads, bias, options))
        return query

    model = SanaTransformer(tiny.transformer_config(), Kit(layers=Ops, attention=attention))
    assert made == [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    model(LATENT, TIME, model.caption(CONTEXT, options="of the host"))
    assert calls == [(2, None, "of the host")] * model.config.depth


def test_sprint_needs_its_guidance_and_reads_it():
    model = tiny.transformer(hidden_size=288, qk_norm=True, guidance_embed=True)
    with pytest.raises(InputError, match="guidance"):
        model(LATENT, TIME, CONTEXT)
    low, high = (model(LATENT, TIME, CONTEXT, guidance=torch.full((2,), g)) for g in (1.0, 4.5))
    assert (low - high).abs().max() > 1e-3


def test_wrong_inputs():
    model = tiny.transformer()
    with pytest.raises(InputError, match=r"\(B, 16, 4, 4\)"):
        model(torch.zeros(1, 16, 4, 4), TIME[:1], CONTEXT[:1])
    with pytest.raises(InputError, match="2304 wide"):
        model(LATENT, TIME, torch.zeros(2, 7, 2304))


@pytest.mark.parametrize("identity", [[], [0]])
def test_clamp_of_float16_releases(identity):
    """The output of self-attention is cut to the range of float16, in a model that was not trained so it is not."""
    clamped, free = (tiny.transformer(depth=1, fp16_trained=trained) for trained in (True, False))
    for model in (clamped, free):
        model.blocks[0].attn1.to_out[0].weight.mul_(1e6)
    found, unlimited = (model(LATENT, TIME, CONTEXT, identity_attention=identity) for model in (clamped, free))
    free.blocks[0].attn1.to_out[0].register_forward_hook(lambda _, given, output: output.clamp(-65504, 65504))
    assert torch.equal(free(LATENT, TIME, CONTEXT, identity_attention=identity), found)
    assert not torch.allclose(unlimited, found)


def test_reduced_precision_stays_near():
    exact = tiny.transformer()(LATENT, TIME, CONTEXT)
    model = tiny.transformer().to(torch.bfloat16)
    error = model(LATENT.bfloat16(), TIME, CONTEXT.bfloat16()).float() - exact
    assert error.square().mean().sqrt() < 0.03 * exact.square().mean().sqrt()


def test_linear_attention_is_normalised_relu_attention():
    generator = torch.Generator().manual_seed(4)
    query, key, value = (torch.randn(1, 9, 2, 5, generator=generator, dtype=torch.float64) for _ in range(3))
    weights = torch.einsum("bqhd, bkhd -> bhqk", query.relu(), key.relu())
    expected = torch.einsum("bhqk, bkhd -> bqhd", weights / weights.sum(-1, keepdim=True), value)
    torch.testing.assert_close(linear_attention(query, key, value, eps=1e-15), expected)


def test_sinusoid():
    row = sinusoid(torch.tensor([3.0]))[0]
    assert row.shape == (256,)
    assert row[0] == pytest.approx(math.cos(3.0)) and row[128] == pytest.approx(math.sin(3.0))
    assert row[127] == pytest.approx(math.cos(3.0 * 10000 ** (-127 / 128)))


def positions(interpolation):
    position = SinCosPosition(PositionConfig(base_size=64, interpolation=interpolation), 16)
    return position(torch.zeros(1, 16, 4, 6))[0]


def test_positions_of_columns_then_rows():
    table = positions(1.0)
    assert torch.equal(table[:8, 0], table[:8, 3]) and torch.equal(table[8:, :, 0], table[8:, :, 5])
    assert table[0, 0, 1] == pytest.approx(math.sin(64 / 6)) and table[8, 1, 0] == pytest.approx(math.sin(64 / 4))
    assert positions(2.0)[0, 0, 1] == pytest.approx(math.sin(32 / 6))


def test_attention_bias():
    assert attention_bias(None, torch.float32) is None
    bias = attention_bias(torch.tensor([[True, False]]), torch.float16)
    assert bias.shape == (1, 1, 1, 2) and bias[0, 0, 0, 0] == 0 and bias[0, 0, 0, 1] == torch.finfo(torch.float16).min


@pytest.mark.parametrize("qk_norm", [False, True])
def test_identity_attention_is_the_values_alone(qk_norm):
    """In its block queries, keys and their norms have no say; elsewhere nothing changes."""
    model = tiny.transformer(depth=3, qk_norm=qk_norm)
    plain, perturbed = model(LATENT, TIME, CONTEXT), model(LATENT, TIME, CONTEXT, identity_attention=[1])
    assert (plain - perturbed).abs().max() > 1e-2
    with torch.no_grad():
        for name, parameter in model.blocks[1].attn1.named_parameters():
            if "q" in name or "k" in name:
                parameter.mul_(-3.0)
        assert torch.equal(model(LATENT, TIME, CONTEXT, identity_attention=(1,)), perturbed)
        assert not torch.allclose(model(LATENT, TIME, CONTEXT), plain)
        model.blocks[1].attn1.to_v.weight.mul_(2.0)
    assert not torch.allclose(model(LATENT, TIME, CONTEXT, identity_attention=[1]), perturbed)


def test_identity_attention_is_to_out_of_to_v():
    attention, x = tiny.transformer().blocks[0].attn1, CONTEXT.repeat(1, 1, 3)[..., :224]
    assert torch.equal(attention(x, attend_to_itself), attention.to_out[0](attention.to_v(x)))
