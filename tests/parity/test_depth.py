"""Files of grown models against diffusers' network: the same names and shapes."""

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from sana_core.training.depth import grow


@pytest.mark.parametrize("qk_norm", [False, True])
def test_a_grown_file_fits_diffusers(tmp_path, qk_norm):
    diffusers = pytest.importorskip("diffusers", reason="diffusers is the reference these tests compare with")
    save_file(tiny.transformer(depth=3, qk_norm=qk_norm).state_dict(), tmp_path / "small.safetensors")
    grow(tmp_path / "small.safetensors", tmp_path / "grown.safetensors", depth=5)
    with torch.device("meta"):
        theirs = diffusers.SanaTransformer2DModel(
            num_attention_heads=7,
            attention_head_dim=32,
            num_layers=5,
            num_cross_attention_heads=2,
            cross_attention_head_dim=112,
            cross_attention_dim=224,
            caption_channels=96,
            qk_norm="rms_norm_across_heads" if qk_norm else None,
        )
    found = {key: tensor.shape for key, tensor in load_file(tmp_path / "grown.safetensors").items()}
    assert found == {key: tensor.shape for key, tensor in theirs.state_dict().items()}
