"""The meter against sums done by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sana_core.live_memory import LiveMemory, weight_bytes

KIB = 1024


@pytest.fixture(params=["cpu", "meta"])
def device(request: pytest.FixtureRequest) -> str:
    return request.param


def block(device: str, kib: int = 1) -> torch.Tensor:
    return torch.zeros(kib * KIB, dtype=torch.uint8, device=device)


def test_what_dies_leaves_and_the_peak_stays(device: str) -> None:
    with LiveMemory() as meter:
        first = block(device, 3)
        second = block(device, 2)
        assert meter.live_bytes == 5 * KIB
        del first
        assert (meter.live_bytes, meter.peak_bytes) == (2 * KIB, 5 * KIB)
        third = block(device, 1)
        assert (meter.live_bytes, meter.peak_bytes) == (3 * KIB, 5 * KIB)
    del second, third
    assert meter.live_bytes == 0


def test_views_are_free_and_keep_their_storage_alive(device: str) -> None:
    with LiveMemory() as meter:
        view = block(device, 4).view(2, -1)[1].unsqueeze(0).expand(5, -1)
        assert meter.live_bytes == 4 * KIB
        copied = view.contiguous()
        assert meter.live_bytes == 4 * KIB + 5 * 2 * KIB
        del view
        assert meter.live_bytes == copied.numel()


def test_a_result_and_its_arguments_count_together(device: str) -> None:
    with LiveMemory() as meter:
        x = torch.zeros(KIB, device=device)
        x = (x + 1) * 2
    assert meter.peak_bytes == 3 * 4 * KIB  # x, x + 1 and the product
    assert meter.live_bytes == 4 * KIB and x.numel() == KIB


def test_in_place_costs_nothing(device: str) -> None:
    with LiveMemory() as meter:
        block(device).add_(1).mul_(2)
    assert meter.peak_bytes == KIB


def test_what_came_from_outside_is_not_counted_nor_are_its_views(device: str) -> None:
    outside = block(device, 8)
    with LiveMemory(extra=100) as meter:
        outside.view(2, -1).add_(1)
        assert meter.peak_bytes == 100
        made = outside + 1
    assert meter.peak_bytes == 8 * KIB + 100 and made.shape == outside.shape


def test_a_resized_storage_counts_anew(device: str) -> None:
    with LiveMemory() as meter:
        x = block(device, 1)
        x.resize_(4 * KIB)
        assert meter.live_bytes == 4 * KIB


def test_the_meter_runs_inside_functions_that_drop_their_locals() -> None:
    layer = torch.nn.Linear(64, 256, bias=False, device="meta")
    with LiveMemory(extra=weight_bytes(layer)) as meter, torch.no_grad():
        x = torch.empty(10, 64, device="meta")
        for _ in range(3):
            layer(F.relu(x))
    # x and its relu, then one result at a time
    assert meter.peak_bytes == 4 * (64 * 256 + 2 * 10 * 64 + 10 * 256)


def test_softmax_attention_holds_no_matrix_of_weights_on_meta() -> None:
    query, key = torch.empty(1, 2, 1000, 8, device="meta"), torch.empty(1, 2, 50, 8, device="meta")
    with LiveMemory() as meter:
        assert F.scaled_dot_product_attention(query, key, key).shape == query.shape
    assert meter.peak_bytes == query.numel() * 4


def test_tied_weights_count_once() -> None:
    first, second = torch.nn.Linear(8, 8, bias=False), torch.nn.Linear(8, 8, bias=False)
    second.weight = first.weight
    assert weight_bytes(torch.nn.Sequential(first, second)) == 8 * 8 * 4
