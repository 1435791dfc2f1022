"""How the embedded model's networks begin, and the attention they are trained with."""

import tiny
import torch

from sana_core.kernels.attention import softmax_attention
from sana_core.transformer.caption import attention_bias
from tools.nano.initial import initial_autoencoder, plain_attention


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_plain_attention_is_attention():
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
    query, key, value = noise(2, 7, 96, seed=1), noise(2, 5, 96, seed=2), noise(2, 5, 96, seed=3)
    for bias in (attention_bias(mask, torch.float32), None):
        torch.testing.assert_close(
            plain_attention(query, key, value, 3, bias=bias), softmax_attention(query, key, value, 3, bias=bias)
        )


def test_a_seed_is_one_autoencoder_and_the_global_generator_stays():
    state = torch.get_rng_state()
    first, second = (initial_autoencoder(tiny.autoencoder_config(), 0).state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert torch.equal(state, torch.get_rng_state())
