"""The count of kernels and bytes: by hand on small sums, and what a block may take."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from bench import work
from bench.networks import transformer
from bench.roofline import step_kernels
from bench.variants import make_step, own_step
from sana_core.presets import BASE_06, BASE_16

META, FP32 = torch.device("meta"), torch.float32


def counted(run, weights=()):
    with work.Counting(weights) as counting:
        run()
    return dict(counting.kernels), dict(counting.bytes)


def test_what_is_read_and_written_counts_and_views_do_not():
    x = torch.ones(4, 8)
    assert counted(lambda: x.t()[1:].unsqueeze(0) + 1) == ({"add": 1}, {"add": 2 * 28 * 4})
    assert counted(lambda: torch.empty(4, 8)) == ({}, {})
    assert counted(lambda: torch.empty(4, 8).copy_(x)) == ({"copy_": 1}, {"copy_": 2 * 32 * 4})


def test_in_place_reads_and_writes():
    x = torch.ones(4, 8)
    assert counted(lambda: x.mul_(2)) == ({"mul_": 1}, {"mul_": 2 * 32 * 4})


def test_a_broadcast_tensor_moves_what_it_stores():
    row = torch.ones(1, 8)
    assert counted(lambda: row.expand(4, 8).contiguous()) == ({"clone": 1}, {"clone": (8 + 32) * 4})


def test_weights_are_left_out():
    layer, x = torch.nn.Linear(8, 16, bias=False), torch.ones(4, 8)
    with torch.no_grad():
        assert counted(lambda: layer(x), list(layer.parameters())) == ({"mm": 1}, {"mm": 4 * (4 * 8 + 4 * 16)})


def test_softmax_attention_is_one_kernel():
    q, k = torch.ones(1, 2, 16, 8), torch.ones(1, 2, 5, 8)
    kernels, moved = counted(lambda: F.scaled_dot_product_attention(q, k, k).transpose(1, 2).flatten(-2))
    assert list(kernels.values()) == [1] and list(moved.values()) == [4 * 2 * 8 * (16 + 5 + 5 + 16)]


@pytest.mark.parametrize("config", [BASE_06, BASE_16], ids=["0.6B", "1.6B"])
def test_a_block_takes_less_than_in_diffusers(config):
    theirs, plain, kept = (work.count(variant, config, 512) for variant in (work.DIFFUSERS, work.PLAIN, work.KEPT))
    assert 44 <= theirs.kernels <= 46 and 255 <= theirs.d_bytes <= 275  # diffusers 0.42
    assert plain.kernels <= 40 and plain.d_bytes <= 210
    assert kept.kernels <= plain.kernels - 2 and kept.d_bytes < plain.d_bytes


@pytest.mark.parametrize("pixels", [512, 1024])
@pytest.mark.parametrize("config", [BASE_06, BASE_16], ids=["0.6B", "1.6B"])
def test_what_a_block_may_take(config, pixels):
    pytest.importorskip("triton")
    without, found = (work.count(variant, config, pixels) for variant in (work.WITHOUT_TRITON, work.FAST))
    assert without.kernels <= 36 and without.d_bytes <= 195
    assert found.kernels <= 14 and round(found.d_bytes, 1) <= 90  # 90.02 at 512 px, 88.5 at 1024 px
    assert found.by_kernel["linear_attention"][0] == 2  # launches


@pytest.mark.parametrize("tokens", [60, 120])
def test_the_roofline_knows_every_operation(tokens):
    config = replace(BASE_06, depth=1)
    with torch.no_grad():
        runs = []
        for depth in (1, 2):
            step = make_step(replace(config, depth=depth), 512, tokens, META, FP32)
            with FlopCounterMode(display=False) as flops:
                own_step(transformer(step.config, META, FP32), step)()
            runs.append(flops.get_total_flops())
    known = sum(kernel.operations for kernel in step_kernels(config, 512, tokens, 2))
    made_once = 2 * 2 * 2 * tokens * config.hidden_size**2  # keys and values of two prompts
    assert known == pytest.approx(runs[1] - runs[0] - made_once, rel=2e-3)


def test_the_command(tmp_path, capsys):
    path = tmp_path / "work.json"
    assert work.main(["--network", "0.6B", "--pixels", "512", "--kernels", "--json", str(path)]) == 0
    rows = json.loads(path.read_text())["rows"]
    assert [row["variant"] for row in rows][:3] == [work.DIFFUSERS, work.PLAIN, work.KEPT]
    assert "scaled_dot_product_attention" in capsys.readouterr().out
