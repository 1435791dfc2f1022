"""What quantised networks of the published sizes hold in memory, and that the count is of what is stored."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny_text
import torch

from bench import quantised
from bench.quantised import PLANS, count, stored
from sana_core.quantised.formats import FORMATS
from sana_core.quantiser.making import quantise

counts_gemma = pytest.mark.skipif(
    not tiny_text.gemma_runs_on("meta"), reason="this PyTorch cannot run transformers' Gemma-2 on the meta device"
)
LIMITED = [
    pytest.param(plan, id=f"{plan.name}-{plan.pixels}-{plan.how}", marks=[counts_gemma] if plan.text else [])
    for plan in PLANS
    if plan.limit
]


@pytest.mark.slow
@pytest.mark.parametrize("plan", LIMITED)
def test_the_limits(plan):
    counted = count(plan)
    assert counted.quantised <= plan.limit and not counted.missed
    assert counted.quantised < counted.bf16 * 0.75


@pytest.mark.parametrize(("form", "name"), [("int8", "int8_tensorwise"), ("fp8", "float8_e4m3fn"), ("nvfp4", "nvfp4")])
def test_what_is_counted_is_what_is_stored(form, name):
    shape = (300, 320)
    made = {key: part for key, part in quantise(torch.ones(shape), form).parts.items() if key != "comfy_quant"}
    counted = stored(FORMATS[name], shape)
    assert counted.keys() == made.keys()
    assert counted["weight"].nbytes == made["weight"].nbytes
    assert sum(part.nbytes for part in made.values()) <= sum(part.nbytes for part in counted.values())


def test_layers_that_the_files_leave_alone_are_counted_as_they_are():
    network = quantised.transformer(replace(PLANS[0].config, depth=1), quantised.META, quantised.DTYPE)
    before = quantised.weight_bytes(network)
    kept = network.patch_embed.proj.weight
    quantised.quantised(network, "int8")
    assert network.patch_embed.proj.weight is kept
    assert before / 2 < quantised.weight_bytes(network) < before
