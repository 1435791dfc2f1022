"""Gradient checkpointing changes no gradient, saves memory, and the plan counts how much."""

import pytest
import tiny
import torch

from sana_core.config import SamplingDefaults, TransformerConfig
from sana_core.kit import Kit
from sana_core.live_memory import LiveMemory
from sana_core.training.gradient_checkpointing import checkpoint_blocks, keep_blocks
from sana_core.training.objective import FlowBatch
from sana_core.training.optimizers import build_optimizer
from sana_core.training.plan import step_memory, without_values
from sana_core.training.trainees import ControlTrainee, LoraTrainee, ModelTrainee
from sana_core.transformer.model import SanaTransformer

MAKE = {
    "LoRA": lambda base, autocast: LoraTrainee(base, rank=4, autocast=autocast, guidance=4.5),
    "ControlNet, upstream's": lambda base, autocast: ControlTrainee(base, depth=1, autocast=autocast),
    "ControlNet, diffusers'": lambda base, autocast: ControlTrainee(
        base, depth=1, order="diffusers", autocast=autocast
    ),
    "model": lambda base, autocast: ModelTrainee(base, SamplingDefaults(), autocast=autocast, guidance=4.5),
}
TYPES = {"float32": None, "bfloat16": torch.bfloat16}
PIXELS, TOKENS = 512, 300
WIDE = TransformerConfig(hidden_size=2240, depth=2, num_heads=70, num_cross_heads=20, ffn_size=5600)  # as 1.6B


def batch(config, count, side, length, control):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(count, *shape, generator=generator)

    return FlowBatch(
        latents=normal(32, side, side),
        noise=normal(32, side, side),
        time=torch.linspace(0.2, 0.9, count),
        states=normal(length, config.caption_channels),
        mask=torch.ones(count, length, dtype=torch.bool),
        weights=torch.ones(count),
        control=normal(32, side, side) if control else None,
    )


def gradients(trainee, given):
    trainee.objective(given).backward()
    found = {name: p.grad for name, p in trainee.trained.named_parameters()}
    trainee.objective.zero_grad()
    return found


@pytest.mark.parametrize("autocast", TYPES)
@pytest.mark.parametrize("kind", MAKE)
def test_the_gradients_are_the_same_to_the_bit(kind, autocast):
    changes = {"depth": 3} if "Control" in kind else {"depth": 3, "qk_norm": True, "guidance_embed": True}
    trainee = MAKE[kind](tiny.transformer(**changes), TYPES[autocast])
    tiny.randomized(trainee.trained, seed=1).requires_grad_(True)
    given = batch(trainee.objective.transformer.config, 2, 4, 6, "Control" in kind)
    kept = gradients(trainee, given)
    calls = []
    handles = [block.attn1.register_forward_hook(lambda *_: calls.append(1)) for block in trainee.blocks]
    checkpoint_blocks(trainee.blocks)
    again = gradients(trainee, given)
    assert len(calls) > len(trainee.blocks)  # they were computed twice
    assert kept.keys() == again.keys() and all(torch.equal(kept[name], again[name]) for name in kept)
    assert all(g.abs().max() > 0 for name, g in kept.items() if not name.endswith("attn2.to_k.bias"))  # has no effect
    keep_blocks(trainee.blocks)
    calls.clear()
    gradients(trainee, given)
    assert len(calls) == len(trainee.blocks)
    for handle in handles:
        handle.remove()


def counted(kind, config, autocast, checkpointing, *, pieces=2, optimizer="adamw"):
    """Bytes beyond the weights, by the plan."""

    def build():
        base = SanaTransformer(config, Kit(device="meta"))
        without_values(base)
        return objective_of(kind, base, autocast, checkpointing)

    memory = step_memory(
        build, lambda trained: build_optimizer(optimizer, trained, rate=1e-4), width=PIXELS, height=PIXELS,
        at_once=1, states_dtype=torch.float32, control="Control" in kind, pieces=pieces,
    )  # fmt: skip
    return memory.peak - memory.weights


def measured(kind, config, autocast, checkpointing, *, pieces=2, optimizer="adamw"):
    """The same of two real steps, as the loop takes them."""
    objective = objective_of(kind, tiny.randomized(SanaTransformer(config)), autocast, checkpointing)
    stepping = build_optimizer(optimizer, [p for p in objective.parameters() if p.requires_grad], rate=1e-4)
    given = batch(config, 1, PIXELS // 32, TOKENS, "Control" in kind)
    with LiveMemory() as memory:
        for _ in range(2):
            for _ in range(pieces):
                objective(given).backward()
            stepping.step()
            stepping.zero_grad()
    return memory.peak_bytes


def objective_of(kind, base, autocast, checkpointing):
    trainee = MAKE[kind](base, TYPES[autocast])
    if checkpointing:
        checkpoint_blocks(trainee.blocks)
    return trainee.objective


@pytest.mark.slow
@pytest.mark.parametrize("autocast", TYPES)
@pytest.mark.parametrize("kind", ["LoRA", "ControlNet, upstream's", "model"])
def test_the_plan_counts_what_a_real_step_takes(kind, autocast):
    plan, real = (
        [count(kind, WIDE, autocast, again, pieces=1) for again in (False, True)] for count in (counted, measured)
    )
    assert plan == pytest.approx(real, rel=0.1)
    assert plan[0] - plan[1] == pytest.approx(real[0] - real[1], rel=0.1)
    assert kind != "LoRA" or real[1] < 0.7 * real[0]  # the optimizer's step takes more than the blocks of the others


@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize("optimizer", ["adamw", "came", "came8bit"])
def test_the_plan_counts_gradients_that_wait_and_the_optimizer(optimizer, pieces):
    config = tiny.transformer_config(caption_channels=96)
    plan, real = (
        count("model", config, "float32", True, pieces=pieces, optimizer=optimizer) for count in (counted, measured)
    )
    assert plan == pytest.approx(real, rel=0.02)
