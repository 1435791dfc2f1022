"""torch.compile takes whole forwards: no part of them falls back to Python."""

import pytest
import tiny
import torch

from sana_core.config import POSITIONS
from sana_core.transformer.controlnet import ControlBranch

LATENT = torch.randn(2, 32, 4, 6, generator=torch.Generator().manual_seed(1))
CONTEXT = torch.randn(2, 7, 96, generator=torch.Generator().manual_seed(2))
TIME = torch.tensor([999.0, 250.5])


@pytest.mark.parametrize(
    ("changes", "remember", "control", "perturbed"),
    [
        ({}, False, False, ()),
        ({"position": POSITIONS["2k"]}, True, False, ()),
        ({"qk_norm": True, "fp16_trained": True}, True, False, (1,)),
        ({}, True, True, ()),
        ({"hidden_size": 288, "guidance_embed": True, "qk_norm": True}, False, False, ()),
    ],
    ids=["plain", "position", "perturbed", "controlnet", "sprint"],
)
def test_a_forward_is_one_graph(changes, remember, control, perturbed):
    model = tiny.transformer(**changes)
    guidance = torch.full((2,), 4.5) if model.config.guidance_embed else None
    branches = [ControlBranch(tiny.controlnet(), torch.randn(1, 32, 4, 6))] if control else []
    caption = model.caption(CONTEXT, remember=remember)
    expected = model(LATENT, TIME, caption, guidance=guidance, control=branches, identity_attention=perturbed)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    found = compiled(LATENT, TIME, caption, guidance=guidance, control=branches, identity_attention=perturbed)
    torch.testing.assert_close(found, expected)
