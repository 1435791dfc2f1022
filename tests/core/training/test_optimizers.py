"""The optimizers: CAME as its package, in 8 bits, on parameters that are sharded, saved and loaded."""

import copy

import came_pytorch
import pytest
import sharded_optimizers
import torch
from sharded_optimizers import LARGE, SHAPES, parameters
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from sana_core.errors import InputError
from sana_core.training.came8bit import Code, decode, encode
from sana_core.training.optimizers import build_optimizer


def run(optimizer, steps, start=0):
    """Noisy gradients around a steady one, a function of the step."""
    for step in range(start, start + steps):
        generator = torch.Generator().manual_seed(step)
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = (p.detach() * 0.1 + torch.randn(p.shape, generator=generator) * 10.0 ** -(step % 4)).to(p)
        optimizer.step()


def moment_bytes(optimizer):
    names = ("exp_avg", "exp_avg_codes", "exp_avg_scales")
    return sum(state[name].nbytes for state in optimizer.state.values() for name in names if name in state)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_came_is_that_of_its_package(weight_decay, dtype):
    ours, theirs = parameters(SHAPES, dtype), parameters(SHAPES, dtype)
    run(build_optimizer("came", ours, rate=1e-2, weight_decay=weight_decay), 20)
    run(came_pytorch.CAME(theirs, lr=1e-2, weight_decay=weight_decay), 20)
    for own, other in zip(ours, theirs):
        torch.testing.assert_close(own, other, rtol=1e-6, atol=1e-6 if dtype == torch.float32 else 1e-2)


def test_8_bits_are_close_and_small():
    whole, coded = parameters([LARGE, (3, 5)]), parameters([LARGE, (3, 5)])
    before = copy.deepcopy(whole)
    exact, small = build_optimizer("came", whole, rate=1e-3), build_optimizer("came8bit", coded, rate=1e-3)
    run(exact, 20)
    run(small, 20)
    moved, error = (whole[0] - before[0]).norm(), (whole[0] - coded[0]).norm()
    assert 0 < error < 0.02 * moved
    assert torch.equal(whole[1], coded[1])  # too small for 8 bits
    assert moment_bytes(small) <= 0.35 * moment_bytes(exact)
    assert small.state[coded[0]]["exp_avg_codes"].dtype == torch.uint8


def test_the_code_keeps_small_numbers_and_its_own_values():
    generator = torch.Generator().manual_seed(0)
    moment = torch.randn(3, 5000, generator=generator) * 10.0 ** -torch.randint(0, 5, (3, 5000), generator=generator)
    moment[1] = 0
    code = Code.on(moment.device)
    codes, scales = encode(moment, code)
    once = decode(codes, scales, code)
    assert len(code.values) == 255 and code.values.diff().min() > 0
    assert scales.shape == (3, 3) and codes.shape == moment.shape
    large = moment.abs() > 0.1 * moment.abs().max()
    assert ((once - moment).abs() / moment.abs())[large].max() < 0.08
    seen = moment.abs() > 1e-4 * moment.abs().max()
    assert ((once - moment).abs() / moment.abs())[seen].max() < 0.5
    again = encode(once, code)
    assert torch.equal(again[0], codes) and torch.equal(again[1], scales)
    assert torch.equal(once[1], torch.zeros(5000))


@pytest.mark.parametrize("name", ["came", "came8bit"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_loaded_state_goes_on_the_same(name, dtype, tmp_path):
    through, stopped = parameters([LARGE, (5,)], dtype), parameters([LARGE, (5,)], dtype)
    run(build_optimizer(name, through, rate=1e-2), 6)
    first = build_optimizer(name, stopped, rate=1e-2)
    run(first, 3)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = build_optimizer(name, stopped, rate=5.0)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    kinds = {name: tensor.dtype for name, tensor in second.state[stopped[0]].items()}
    assert kinds.pop("exp_avg_codes", torch.uint8) == torch.uint8
    assert set(kinds.values()) == {torch.float32}
    run(second, 3, start=3)
    assert all(torch.equal(*pair) for pair in zip(through, stopped))


@pytest.mark.parametrize("name", ["came", "came8bit"])
def test_a_step_without_values_leaves_nothing_behind(name):
    """Memory is counted on such steps."""
    with FakeTensorMode():
        run_once(build_optimizer(name, [nn.Parameter(torch.ones(LARGE))], rate=1e-2))
    ones = nn.Parameter(torch.ones(LARGE))
    optimizer = build_optimizer(name, [ones], rate=1e-2)
    run_once(optimizer)
    run_once(copy.deepcopy(optimizer))
    assert ones.max() < 1


def run_once(optimizer):
    for p in optimizer.param_groups[0]["params"]:
        p.grad = torch.ones_like(p)
    optimizer.step()


def test_names_and_numbers_that_cannot_be():
    ones = parameters([(3, 3)])
    assert type(build_optimizer("adamw", [("weight", ones[0])], rate=1e-3)) is torch.optim.AdamW
    refused = [
        ("sgd", {}, "unknown optimizer"),
        ("adamw8bit", {}, "needs a GPU"),
        ("came", {"betas": (0.9, 0.99)}, "takes 3 betas"),
        ("came", {"betas": (0.9, 0.99, 1.5)}, "below 1"),
        ("adamw", {"eps": (1e-30, 1e-16)}, "takes 1 eps"),
    ]
    for name, options, message in refused:
        with pytest.raises(InputError, match=message):
            build_optimizer(name, ones, rate=1e-3, **options)
    with pytest.raises(InputError, match="nothing to train"):
        build_optimizer("came", [], rate=1e-3)


@pytest.mark.slow
def test_sharded_parameters_take_the_same_steps(tmp_path):
    torch.multiprocessing.spawn(sharded_optimizers.on_two_processes, (str(tmp_path / "store"),), nprocs=2)
