"""The encoder: against Gemma-2 written out in a few lines; what `encode` promises about windows, masks, batches."""

import dataclasses
import math

import pytest
import torch
from torch.nn.functional import gelu

from sana_core.errors import InputError
from sana_core.text.gemma import GemmaTextEncoder

PROMPTS = ["a red apple", "", "A Cat  sleeping on a warm sunny windowsill\n", "oil painting " * 300]


@pytest.fixture(scope="module")
def encoder(config, tokenizer, state_dict):
    return GemmaTextEncoder(config, tokenizer, state_dict)


def rms_norm(x, weight):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * (1 + weight)


def rotate(x):
    """Rotary embedding of (heads, T, head_dim), halves paired."""
    half = x.shape[-1] // 2
    angles = torch.arange(x.shape[1])[:, None] * 10000.0 ** (-torch.arange(half) / half)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], -1)


def attention(x, get, config, num_padding=0):
    def split(weight, heads):
        return (x @ weight.T).view(len(x), heads, config.head_dim).transpose(0, 1)

    groups = config.num_attention_heads // config.num_key_value_heads
    query = rotate(split(get("q_proj"), config.num_attention_heads))
    key = rotate(split(get("k_proj"), config.num_key_value_heads)).repeat_interleave(groups, 0)
    value = split(get("v_proj"), config.num_key_value_heads).repeat_interleave(groups, 0)
    cap = config.attn_logit_softcapping
    logits = cap * torch.tanh(query @ key.transpose(1, 2) / math.sqrt(config.query_pre_attn_scalar) / cap)
    logits = logits + torch.full((len(x), len(x)), -torch.inf).triu(1)
    logits[:, :, len(x) - num_padding :] = -torch.inf  # nothing attends to padding, not even padding
    return (logits.softmax(-1) @ value).transpose(0, 1).flatten(1) @ get("o_proj").T


def gemma2(ids, tensors, config, num_padding=0):
    """Gemma-2 (arXiv:2408.00118, sec. 2): ids, the last of them padding -> (T, hidden_size) after the final norm."""
    x = tensors["embed_tokens.weight"][ids] * math.sqrt(config.hidden_size)
    for i in range(config.num_hidden_layers):

        def get(name, i=i):
            return tensors[f"layers.{i}.{name}.weight"]

        y = attention(
            rms_norm(x, get("input_layernorm")), lambda name, get=get: get(f"self_attn.{name}"), config, num_padding
        )
        x = x + rms_norm(y, get("post_attention_layernorm"))
        y = rms_norm(x, get("pre_feedforward_layernorm"))
        y = (gelu(y @ get("mlp.gate_proj").T, approximate="tanh") * (y @ get("mlp.up_proj").T)) @ get("mlp.down_proj").T
        x = x + rms_norm(y, get("post_feedforward_layernorm"))
    return rms_norm(x, tensors["norm.weight"])


def error(a, b):
    return float((a - b).abs().max() / b.square().mean().sqrt())


def test_it_is_gemma2(encoder, config, state_dict):
    ids = torch.randint(0, config.vocab_size, (70,), generator=torch.Generator().manual_seed(1))
    expected = gemma2(ids, state_dict, config)
    assert error(encoder(ids[None])[0], expected) < 1e-4
    uncapped = gemma2(ids, state_dict, dataclasses.replace(config, attn_logit_softcapping=1e6))
    assert error(uncapped, expected) > 0.05, "the soft cap should show on this model"


@pytest.mark.parametrize("instruction", [None, "default", "diffusers", "Draw: "])
def test_encode_keeps_the_window(encoder, config, state_dict, instruction):
    embeddings, mask = encoder.encode(PROMPTS, instruction=instruction)
    tokens = encoder.tokenize(PROMPTS, instruction=instruction)
    lengths = [len(item.kept) for item in tokens]
    assert embeddings.shape == (4, max(lengths), config.hidden_size)
    assert mask.dtype == torch.bool
    assert mask.tolist() == [[i < length for i in range(max(lengths))] for length in lengths]
    assert not embeddings[~mask].any()
    assert [item.truncated for item in tokens] == [False, False, False, True]
    assert max(lengths) == 300
    for item, row, length in zip(tokens[:3], embeddings, lengths):
        hidden = gemma2(torch.tensor(item.ids), state_dict, config)
        assert error(row[:length], hidden[item.kept]) < 1e-4


def test_a_batch_equals_single_prompts(encoder):
    embeddings, mask = encoder.encode(PROMPTS, instruction="default")
    for i, prompt in enumerate(PROMPTS):
        alone, alone_mask = encoder.encode([prompt], instruction="default")
        length = alone_mask.shape[1]
        assert alone_mask.all() and mask[i].sum() == length
        assert error(embeddings[i, :length], alone[0]) < 1e-4


def test_only_the_longest_prompt_is_run(encoder, monkeypatch):
    shapes = []
    forward = encoder.model.forward
    monkeypatch.setattr(
        encoder.model,
        "forward",
        lambda input_ids, **kw: shapes.append(tuple(input_ids.shape)) or forward(input_ids, **kw),
    )
    encoder.encode(["a cat", "a"])
    assert shapes == [(2, len(encoder.tokenizer.encode("a cat")))]


def test_prompts_are_used_as_they_are(encoder):
    plain, upper, spaced = encoder.tokenize(["a cat", "A CAT", " a cat "])
    assert (plain.text, upper.text, spaced.text) == ("a cat", "A CAT", " a cat ")
    assert len({tuple(item.ids) for item in (plain, upper, spaced)}) == 3


def test_max_length(encoder):
    embeddings, mask = encoder.encode(["a red apple on a wooden table"], max_length=4)
    whole, _ = encoder.encode(["a red apple on a wooden table"])
    assert embeddings.shape[1] == 4 and mask.all()
    assert error(embeddings[0], whole[0, :4]) < 1e-4


def test_cut_prompts_are_warned_of_once(encoder, caplog):
    encoder.encode(["a cat", "oil painting"])
    assert not caplog.records
    long = "oil painting " * 300
    encoder.encode([long, "a cat", long, long + "blue"])
    first, second = [record.message for record in caplog.records]
    assert "SANA sees 300 tokens of it" in first and "cut off" in first and first != second
    caplog.clear()
    encoder.encode(["a red apple on a table"], kept_lengths=[3])
    assert "SANA sees 3 tokens of it" in caplog.text


def test_pytorchs_defaults_do_not_matter(encoder, config, tokenizer, state_dict):
    expected = encoder.encode(PROMPTS[:3], instruction="Draw: ", kept_lengths=[9, 2, 5])
    for dtype in (torch.float64, torch.bfloat16):
        torch.set_default_device("meta")
        torch.set_default_dtype(dtype)
        try:
            built = GemmaTextEncoder(config, tokenizer, state_dict)
            found = built.encode(PROMPTS[:3], instruction="Draw: ", kept_lengths=[9, 2, 5])
        finally:
            torch.set_default_device(None)
            torch.set_default_dtype(torch.float32)
        assert all(torch.equal(*pair) for pair in zip(found, expected))


def test_the_text_that_is_sent(encoder):
    item = encoder.tokenize(["a red apple on a wooden table"], instruction="Draw: ", max_length=4)[0]
    assert item.truncated
    assert "Draw: a red apple on a wooden table".startswith(item.text)
    assert encoder.tokenizer.encode(item.text) == item.ids


@pytest.mark.parametrize("prompts", ["a cat", [], ["a cat", None]])
def test_bad_prompts(encoder, prompts):
    with pytest.raises(InputError, match="prompts must be a list of at least one text"):
        encoder.encode(prompts)


def test_frozen_and_without_graph(encoder):
    assert not encoder.training and not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not encoder.encode(["a cat"])[0].requires_grad


def test_building_leaves_the_global_generator_alone(config, tokenizer, state_dict):
    before = torch.random.get_rng_state()
    encoder = GemmaTextEncoder(config, tokenizer, state_dict)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not any(tensor.is_meta for tensor in [*encoder.parameters(), *encoder.buffers()])
    assert encoder.state_dict().keys() == {f"model.{key}" for key in state_dict}


@pytest.mark.parametrize("negative", ["", "blurry", "a small fluffy white cat sleeping on a warm sunny windowsill"])
def test_upstreams_unconditional_mask(encoder, tokenizer, config, state_dict, negative):
    """As long as the positive prompt: BOS and padding for an empty negative prompt; a longer one is cut."""
    _, positive = encoder.encode(["a red apple"], instruction="default")
    length = int(positive.sum())
    ids = tokenizer.encode(negative)[:length]
    padding = length - len(ids)
    states, mask = encoder.encode([negative], kept_lengths=[length])
    assert torch.equal(mask, positive)
    expected = gemma2(torch.tensor(ids + [0] * padding), state_dict, config, padding)
    assert (states[0] - expected).abs().max() < 2e-5 * expected.abs().max()


def test_kept_lengths_are_per_prompt_and_leave_the_others_of_a_batch_alone(encoder):
    together = encoder.encode(["", "a red apple on a wooden table", "blurry"], kept_lengths=[7, 4, 9])
    assert together[1].sum(1).tolist() == [7, 4, 9]
    for row, (prompt, length) in enumerate([("", 7), ("a red apple on a wooden table", 4), ("blurry", 9)]):
        alone = encoder.encode([prompt], kept_lengths=[length])[0]
        assert torch.allclose(together[0][row, :length], alone[0], atol=1e-4)
    with pytest.raises(InputError, match="1 kept lengths for 2 prompts"):
        encoder.encode(["a", "b"], kept_lengths=[5])
