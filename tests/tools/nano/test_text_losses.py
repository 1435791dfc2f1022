"""Token batches, and the losses of the text encoder."""

import random

import pytest
import tiny_text
import torch

from sana_core.text.instruction import prompt_tokens
from sana_core.text.tokenizer import tokenizer_from_bytes
from tools.nano.text_losses import (
    IGNORED,
    AttributeHeads,
    dropped,
    initial_text_encoder,
    kept_states,
    next_token_loss,
    token_batch,
)


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizer_from_bytes(tiny_text.spiece(), "tiny")


@pytest.fixture(scope="module")
def batch(tokenizer):
    prompts = [("a red apple", None), ("a cat", "default"), ("", None)]
    return token_batch([prompt_tokens(tokenizer, text, instruction) for text, instruction in prompts])


def test_the_states_are_those_that_sampling_uses(tokenizer, batch):
    """One prompt with the instruction and two without, padded together, against GemmaTextEncoder.encode of each."""
    encoder = initial_text_encoder(tiny_text.config(), 0).eval().requires_grad_(False)
    states = kept_states(encoder(batch.ids), batch)
    encoder.tokenizer = tokenizer
    for row, (prompt, instruction) in enumerate([("a red apple", None), ("a cat", "default"), ("", None)]):
        alone, mask = encoder.encode([prompt], instruction=instruction)
        length = int(mask.sum())
        assert int(batch.mask[row].sum()) == length
        torch.testing.assert_close(states[row, :length], alone[0], atol=1e-5, rtol=1e-4)


def test_language_loss_of_known_predictions(batch):
    vocabulary = tiny_text.VOCAB_SIZE
    following = torch.zeros(*batch.ids.shape, vocabulary)
    following[:, :-1] = (
        torch.nn.functional.one_hot(batch.ids[:, 1:], vocabulary).float() * 100
    )  # states that name the next token
    assert next_token_loss(following, batch, torch.eye(vocabulary)).item() < 1e-3
    uniform = next_token_loss(torch.zeros_like(following), batch, torch.eye(vocabulary))
    assert uniform.item() == pytest.approx(torch.tensor(float(vocabulary)).log().item(), abs=1e-3)


def test_padding_says_nothing(batch):
    """What the states of padding are changes no loss."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(*batch.ids.shape, 8, generator=generator)
    other = torch.where((torch.arange(hidden.shape[1]) < batch.lengths[:, None])[..., None], hidden, 99.0)
    embedding = torch.randn(tiny_text.VOCAB_SIZE, 8, generator=generator)
    assert next_token_loss(hidden, batch, embedding) == next_token_loss(other, batch, embedding)


def test_heads_learn_what_captions_tell_and_skip_the_rest(batch):
    heads = AttributeHeads(8, {"thing": 3, "colour": 4})
    states = torch.randn(3, batch.mask.shape[1], 8, generator=torch.Generator().manual_seed(0))
    values = {"thing": torch.tensor([2, 1, IGNORED]), "colour": torch.tensor([0, IGNORED, IGNORED])}
    optimizer = torch.optim.Adam(heads.parameters(), lr=0.1)
    for _ in range(60):
        loss = heads(states, batch, values)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05
    untold = heads(states, batch, {name: torch.full((3,), IGNORED) for name in values})
    assert untold.item() == 0


def test_dropout_is_by_share_and_seed():
    assert sum(dropped(10_000, 0.1, random.Random(0))) == pytest.approx(1000, abs=100)
    assert dropped(50, 0.5, random.Random(1)) == dropped(50, 0.5, random.Random(1))
