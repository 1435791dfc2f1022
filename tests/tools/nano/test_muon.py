"""Muon, and the split between the optimizers."""

import pytest
import torch
from torch import nn

from sana_core.training.schedule import rate_factor, set_rate
from tools.nano.muon import Muon, build_optimizers, orthogonalize


@pytest.mark.parametrize("shape", [(32, 96), (96, 32), (64, 64)])
def test_matrices_become_nearly_orthogonal_one_by_one(shape):
    matrices = (
        torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
        * torch.tensor([1.0, 1e-4, 1e3])[:, None, None]
    )
    found = orthogonalize(matrices)
    values = torch.linalg.svdvals(found)
    assert values.max() < 1.25 and values.median() > 0.6
    torch.testing.assert_close(found[1], orthogonalize(matrices[1]), atol=0.02, rtol=0)


def test_the_same_shape_is_updated_as_if_alone():
    def updated(count):
        generator = torch.Generator().manual_seed(0)
        parameters = [nn.Parameter(torch.randn(40, 64, generator=generator)) for _ in range(count)]
        for parameter in parameters:
            parameter.grad = torch.randn(40, 64, generator=generator)
        first = parameters[0].detach().clone()
        return parameters, first

    (alone, before), _ = updated(1), None
    together, _ = updated(3)
    together[0].grad = alone[0].grad.clone()
    together[0].data = before.clone()
    for parameters in (alone, together):
        Muon(parameters, lr=0.1).step()
    torch.testing.assert_close(together[0], alone[0], atol=2e-3, rtol=0)
    assert (alone[0] - before).norm() > 0.1


def test_muon_finds_a_minimum():
    target = torch.randn(48, 32, generator=torch.Generator().manual_seed(0))
    weight = nn.Parameter(torch.zeros(48, 32))
    optimizer = Muon([weight], lr=0.2)
    for step in range(60):
        set_rate([optimizer], rate_factor(step, 60, warmup=1, decay=0.8))
        optimizer.zero_grad()
        (weight - target).square().sum().backward()
        optimizer.step()
    assert (weight - target).norm() < 0.2 * target.norm()


def test_each_parameter_has_one_optimizer():
    model = nn.ModuleDict(
        {"wide": nn.Linear(64, 64), "narrow": nn.Linear(64, 8), "embed": nn.Linear(64, 64), "fixed": nn.Linear(64, 64)}
    )
    model["fixed"].requires_grad_(False)
    muon, adamw = build_optimizers(model, rate=0.1, plain_rate=0.01, plain=("embed",))
    names = {parameter: name for name, parameter in model.named_parameters()}
    owned = [{names[p] for group in optimizer.param_groups for p in group["params"]} for optimizer in (muon, adamw)]
    assert owned[0] == {"wide.weight"}
    assert owned[1] == {"wide.bias", "narrow.weight", "narrow.bias", "embed.weight", "embed.bias"}
    assert (muon.param_groups[0]["lr"], adamw.param_groups[0]["lr"]) == (0.1, 0.01)
