"""A transformer that borrows its weights trains as the one that they belong to."""

from contextlib import contextmanager

import pytest
import tiny
import torch

from sana_core.training.borrowed import borrowed_transformer
from sana_core.training.gradient_checkpointing import checkpoint_blocks
from sana_core.training.lora_layers import ATTENTION, FEED_FORWARD, attach_lora


def borrowed(owner, lent):
    """lent: gets the name of each weight when it is lent."""

    def lend(name):
        @contextmanager
        def numbers(dtype):
            lent.append(name)
            yield owner.get_submodule(name).weight.detach().to(dtype)

        return numbers

    return borrowed_transformer(
        owner.config, lend, lambda name: owner.get_parameter(name).detach().clone(), torch.device("cpu")
    )


def gradients(network, *, dora, checkpointing=False):
    lora = attach_lora(network, rank=4, seed=0, targets=(*ATTENTION, *FEED_FORWARD), dora=dora)
    if checkpointing:
        checkpoint_blocks(network.blocks)
    generator = torch.Generator().manual_seed(0)
    for adapter in lora.by_name.values():
        with torch.no_grad():
            adapter.lora_B.weight.normal_(std=0.1, generator=generator)
    latent = torch.randn(2, 32, 5, 3, generator=generator)
    text = torch.randn(2, 9, network.config.caption_channels, generator=generator)
    velocity = network(latent, torch.tensor([749.0, 12.0]), text)
    velocity.square().mean().backward()
    return velocity.detach(), [parameter.grad for parameter in lora.parameters()]


@pytest.mark.parametrize("qk_norm, dora, checkpointing", [(False, False, False), (True, True, True)])
def test_the_same_velocity_and_gradients(qk_norm, dora, checkpointing):
    owner = tiny.transformer(qk_norm=qk_norm)
    before = {name: tensor.clone() for name, tensor in owner.state_dict().items()}
    lent = []
    found, own = gradients(borrowed(owner, lent), dora=dora, checkpointing=checkpointing)
    expected, theirs = gradients(tiny.transformer(qk_norm=qk_norm), dora=dora)
    torch.testing.assert_close(found, expected)
    for one, other in zip(own, theirs, strict=True):
        torch.testing.assert_close(one, other)
    assert {"patch_embed.proj", "transformer_blocks.0.ff.conv_depth", "proj_out"} <= set(lent)
    assert all(torch.equal(tensor, before[name]) for name, tensor in owner.state_dict().items())
    assert not any("adapter" in name or "base" in name for name, _ in owner.named_modules())


def test_no_large_weight_is_its_own():
    network = borrowed(tiny.transformer(), [])
    own = sum(parameter.numel() for parameter in network.parameters())
    assert own < 0.05 * sum(parameter.numel() for parameter in tiny.transformer().parameters())
