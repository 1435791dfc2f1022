"""Keys and shapes of the real releases, on the meta device, in both namings."""

import json
import re
import subprocess
import sys

import pytest
import torch

from sana_core.checkpoint.files import Checkpoint
from sana_core.checkpoint.load import build_autoencoder, build_transformer
from sana_core.config import POSITIONS
from sana_core.errors import CheckpointError


@pytest.fixture(scope="module")
def tables(oracle_scripts, tmp_path_factory):
    path = tmp_path_factory.mktemp("shapes") / "shapes.json"
    subprocess.run([sys.executable, oracle_scripts / "shapes.py", path], check=True, stdout=subprocess.DEVNULL)
    return json.loads(path.read_text())


def load(tensors):
    build = build_autoencoder if any(key.startswith("encoder.") for key in tensors) else build_transformer
    return build(Checkpoint(tensors, "table"), "meta")


TRANSFORMERS = ("sana_0.6B_512px", "sana_0.6B_1024px", "sana_1.6B_512px", "sana_1.6B_1024px", "sana_1.6B_2Kpx",
                "sana_1.6B_4Kpx", "sana1.5_1.6B_1024px", "sana1.5_4.8B_1024px",
                "sprint_0.6B_1024px", "sprint_1.6B_1024px")  # fmt: skip
AUTOENCODERS = ("dc-ae-f32c32-sana-1.0", "dc-ae-f32c32-sana-1.1", "dc-ae-lite-f32c32-sana-1.1")


@pytest.mark.parametrize("naming", ["diffusers", "original"])
@pytest.mark.parametrize("name", TRANSFORMERS + AUTOENCODERS)
def test_real_shapes(tables, name, naming):
    tensors = {key: torch.empty(shape, device="meta") for key, shape in tables[name][naming].items()}
    model = load(tensors)
    assert sum(parameter.numel() for parameter in model.parameters()) == tables[name]["params"]
    if name in TRANSFORMERS and naming == "original":
        assert model.config.position == {"2K": POSITIONS["2k"], "4K": POSITIONS["4k"]}.get(name.split("_")[-1][:2])
    needed = [key for key in tensors if naming == "diffusers" or key not in tables[name]["optional_original"]]
    for key in needed[:: len(needed) // 3]:
        for changed in (
            {k: t for k, t in tensors.items() if k != key},
            tensors | {key: torch.empty(7, 5, device="meta")},
        ):
            with pytest.raises(CheckpointError, match=re.escape(key)):
                load(changed)
    with pytest.raises(CheckpointError, match="one_too_many"):
        load(tensors | {"one_too_many": torch.empty(1, device="meta")})
