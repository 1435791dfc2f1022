"""What the Linear DiT holds for a moment beyond its weights, and that holding less changes nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny
import torch
from torch import Tensor

from sana_core.config import POSITIONS, TransformerConfig
from sana_core.kit import Kit
from sana_core.live_memory import LiveMemory
from sana_core.presets import BASE_06, BASE_16
from sana_core.transformer import block
from sana_core.transformer.model import SanaTransformer

LATENT = torch.randn(3, 32, 4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
CONTEXT = torch.randn(3, 7, 96, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
TIME = torch.tensor([999.0, 250.5, 10.0])


def peak(config: TransformerConfig, pixels: int, batch: int) -> int:
    """Bytes of one forward beyond the weights, bfloat16. Two blocks: nothing but the weights grows with the depth."""
    with torch.device("meta"):
        model = SanaTransformer(replace(config, depth=2), Kit(device="meta", dtype=torch.bfloat16))
        latent = torch.empty(batch, 32, pixels // 32, pixels // 32, dtype=torch.bfloat16)
        context, mask = torch.empty(batch, 300, 2304, dtype=torch.bfloat16), torch.ones(batch, 300, dtype=torch.bool)
        with torch.no_grad(), LiveMemory() as meter:
            model(latent, torch.ones(batch), context, mask)
    return meter.peak_bytes


@pytest.mark.parametrize(("config", "gigabytes"), [(BASE_16, 1.5), (BASE_06, 0.8)])
def test_a_step_with_guidance_at_4096(config, gigabytes):
    config = replace(config, position=POSITIONS["4k"])
    assert peak(config, 4096, 2) < gigabytes * 1e9
    assert peak(replace(config, qk_norm=True, fp16_trained=True), 4096, 2) < gigabytes * 1.09e9


def test_sequences_beyond_the_bound_cost_only_what_stays():
    stays = 16384 * BASE_16.hidden_size * 2  # one map of a sequence
    added = peak(BASE_16, 4096, 3) - peak(BASE_16, 4096, 2)
    # the tokens and the update of the block before, the tokens, their norm, the results of the pass
    assert added == pytest.approx(5 * stays, rel=0.02)


@pytest.mark.parametrize(
    ("batch", "tokens", "expected"),
    [(2, 16384, [1, 1]), (5, 4096, [4, 1]), (2, 1024, [2]), (16, 1024, [16]), (2, 20000, [1, 1])],
)
def test_small_batches_run_in_one_pass(batch, tokens, expected):
    sizes = []

    def double(x: Tensor) -> Tensor:
        sizes.append(x.shape[0])
        return 2 * x

    x = torch.arange(batch * tokens, dtype=torch.float32).reshape(batch, tokens, 1)
    assert torch.equal(block.in_passes(double, x), 2 * x)
    assert sizes == expected


@pytest.mark.parametrize("tokens", [24, 48])
def test_passes_change_neither_the_prediction_nor_the_gradients(monkeypatch, tokens):
    model = tiny.transformer(qk_norm=True).double().requires_grad_(True)
    results = []
    for bound in (block.TOKENS_AT_ONCE, tokens):
        monkeypatch.setattr(block, "TOKENS_AT_ONCE", bound)
        model.zero_grad()
        velocity = model(LATENT, TIME, CONTEXT)
        velocity.square().sum().backward()
        with torch.no_grad():
            torch.testing.assert_close(model(LATENT, TIME, CONTEXT), velocity, rtol=1e-12, atol=1e-12)
        results.append([velocity.detach(), *(parameter.grad for parameter in model.parameters())])
    for whole, parts in zip(*results):
        torch.testing.assert_close(parts, whole, rtol=1e-8, atol=1e-8)
