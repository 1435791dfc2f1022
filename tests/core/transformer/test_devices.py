"""What a forward makes where: nothing large beside the device of the latent, and nothing that a GPU waits for."""

from dataclasses import replace

import pytest
import tiny
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sana_core.config import POSITIONS
from sana_core.kit import Kit
from sana_core.presets import BASE_16
from sana_core.transformer import embeddings
from sana_core.transformer.model import SanaTransformer


class Elsewhere(TorchDispatchMode):
    """Elements of the largest tensor that was made on another device than `device`, and reads of a value."""

    def __init__(self, device):
        super().__init__()
        self.device, self.largest, self.reads = device, 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        self.reads += function is torch.ops.aten._local_scalar_dense.default
        if isinstance(made, torch.Tensor) and made.device.type != self.device:
            self.largest = max(self.largest, made.numel())
        return made


def forward_at_4096():
    config = replace(BASE_16, depth=1, position=POSITIONS["4k"])
    model = SanaTransformer(config, Kit(device="meta", dtype=torch.bfloat16))
    latent = torch.empty(1, 32, 128, 128, dtype=torch.bfloat16, device="meta")
    text = torch.empty(1, 300, 2304, dtype=torch.bfloat16, device="meta")
    with torch.no_grad(), Elsewhere("meta") as elsewhere:
        model(latent, torch.ones(1, device="meta"), text)
    return elsewhere


def test_all_of_a_4k_forward_is_made_on_the_device():
    elsewhere = forward_at_4096()
    assert (elsewhere.largest, elsewhere.reads) == (0, 0)


def test_a_device_without_float64_gets_the_tables_of_the_axes(monkeypatch):
    monkeypatch.setattr(embeddings, "has_float64", lambda device: False)
    assert 0 < forward_at_4096().largest <= 128 * 2240 // 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_positions_are_the_same_on_both_ways(monkeypatch, dtype):
    position = embeddings.SinCosPosition(POSITIONS["4k"], 224)
    maps = torch.zeros(1, 224, 5, 7, dtype=dtype)
    there = position(maps)
    monkeypatch.setattr(embeddings, "has_float64", lambda device: False)
    assert torch.equal(position(maps), there)


def test_picture_tokens_are_channels_last():
    """As norms and matrix products take them: no copy in the blocks."""
    model, seen = tiny.transformer(position=POSITIONS["2k"]), []
    for block in model.blocks:
        block.register_forward_pre_hook(lambda _, given: seen.append(given[0].tokens.is_contiguous()))
    model(torch.randn(2, 32, 4, 6), torch.ones(2), torch.randn(2, 7, 96))
    assert seen == [True] * model.config.depth
