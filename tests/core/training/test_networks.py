"""How networks begin, and the attention they are trained with."""

import tiny
import torch

from sana_core.training.networks import initial_controlnet, initial_transformer
from sana_core.transformer.controlnet import ControlBranch


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_a_seed_is_one_network_and_the_global_generator_stays():
    state = torch.get_rng_state()
    config = tiny.transformer_config()
    networks = [initial_transformer(config, seed).state_dict() for seed in (0, 0, 1)]
    assert all(torch.equal(networks[0][key], networks[1][key]) for key in networks[0])
    assert any(not torch.equal(networks[0][key], networks[2][key]) for key in networks[0])
    assert torch.equal(state, torch.get_rng_state())


def test_a_transformer_begins_with_zero_velocity():
    model = initial_transformer(tiny.transformer_config(), 0)
    assert model(noise(1, 32, 2, 2), torch.tensor([500.0]), noise(1, 3, 96)).abs().max() == 0


def test_a_controlnet_begins_without_effect_and_learns():
    base = tiny.transformer(depth=3)
    network = initial_controlnet(base, 2)
    latent, context, time = noise(2, 32, 2, 2), noise(2, 3, 96, seed=1), torch.tensor([500.0, 900.0])
    branch = ControlBranch(network, noise(2, 32, 2, 2, seed=2))
    controlled = base(latent, time, context, control=[branch])
    torch.testing.assert_close(controlled, base(latent, time, context))
    controlled.square().mean().backward()
    assert all(layer.weight.grad.abs().max() > 0 for layer in network.controlnet_blocks)
    copied = network.transformer_blocks[1].state_dict()
    assert all(torch.equal(tensor, copied[key]) for key, tensor in base.transformer_blocks[1].state_dict().items())
