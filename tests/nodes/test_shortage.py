"""Allocations that fail inside ComfyUI: each ends in one clear error or in tiles, and the next run is the right one."""

import pytest
import torch
from comfy.weight_adapter.lora import LoRAAdapter
from sana_pack.nodes.bridge.lora_shortage import raising

from tools.shortage.__main__ import PARTS
from tools.shortage.trial import attempt


@pytest.mark.parametrize("part", PARTS)
def test_some_allocations(part):
    from tools.shortage import host

    for job in host.jobs(part):
        tally = attempt(job, lambda number: number % 199 == 1)
        assert tally.tried > 0 and tally.wrong == []


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_many_allocations(part):
    from tools.shortage import host

    for job in host.jobs(part):
        assert attempt(job, lambda number: number <= 20 or number % 37 == 0).wrong == []


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), ValueError("other")])
def test_a_lora_that_memory_is_too_short_for(caplog, error):
    """Other errors are the host's: it logs them."""

    def short(change):
        raise error

    def patched(adapter):
        return adapter.calculate_weight(torch.ones(2, 2), "a.weight", 1.0, 1.0, None, short)

    adapter = raising(LoRAAdapter(set(), (torch.ones(2, 1), torch.ones(1, 2), None, None, None, None)))
    assert isinstance(adapter, LoRAAdapter) and type(raising(adapter)).__name__ == "LoRAAdapter"
    if isinstance(error, ValueError):
        assert torch.equal(patched(adapter), torch.ones(2, 2)) and "a.weight other" in caplog.text
    else:
        with pytest.raises(type(error)):
            patched(adapter)
