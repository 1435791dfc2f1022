"""The Triton kernels compile for every GPU they are meant for, spill no registers and fit into shared memory."""

from dataclasses import replace

import pytest

pytest.importorskip("triton.knobs", reason="the command that compiles needs a later Triton than PyTorch 2.6 has")

from bench.registers import LIMITS, compiled, occupancy, variants

SMALL = (86, 89, 120)  # GeForce: 100 kB of shared memory, of which the system keeps one


@pytest.mark.parametrize("capability", [86, 90])
def test_bfloat16(capability):
    assert_fits("bf16", capability)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("capability", LIMITS)
def test_every_kernel_everywhere(capability, dtype):
    assert_fits(dtype, capability)


@pytest.mark.slow
def test_numbers_that_are_one():
    """Triton makes constants of arguments that are 1: a row of tokens, a column of a map, one head."""
    found = {variant.name: variant for dtype in ("bf16", "fp32") for variant in variants(dtype)}
    for variant in found.values():
        ones = {name: 1 for name, type in variant.source().signature.items() if type == "i32"}
        for constants in [ones, *({name: 1} for name in ones)]:
            assert compiled(replace(variant, constants={**variant.constants, **constants}), 90).spilled == 0


def assert_fits(dtype, capability):
    for variant in variants(dtype):
        usage = compiled(variant, capability)
        assert usage.spilled == 0, usage
        assert usage.shared <= (99 if capability in SMALL else 163) * 1024, usage
        assert usage.occupancy >= 0.15, usage


def test_occupancy():
    """Values of the occupancy calculator in Nsight Compute."""
    assert occupancy(90, warps=4, registers=32, shared=0) == 1
    assert occupancy(80, warps=8, registers=64, shared=0) == 0.5  # 2048 registers a warp: 32 warps
    assert occupancy(86, warps=1, registers=32, shared=0) == 16 / 48  # 16 blocks at the most
    assert occupancy(86, warps=4, registers=32, shared=48 * 1024) == 8 / 48  # two blocks share 100 kB
