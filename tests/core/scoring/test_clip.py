"""The CLIP score beside torchmetrics', on a tiny random CLIP."""

import json
import shutil

import fidelity
import numpy as np
import pytest
import torch
from PIL import Image
from scoring_files import write_clip

from sana_core.errors import CheckpointError, InputError
from sana_core.scoring import load_scorer
from sana_core.scoring.clip import ClipScorer

pytest.importorskip("transformers")
PROMPTS = ["a red apple", "a cat", "a bird, a cat, a dog"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)) for _ in PROMPTS]


class Features:
    """A CLIPModel as torchmetrics 1.9 expects it: transformers 5 gives the features inside an object."""

    def __init__(self, network):
        self.network, self.config = network, network.config

    def to(self, device):
        return self

    def get_image_features(self, pixels):
        return tensor(self.network.get_image_features(pixels))

    def get_text_features(self, ids, mask):
        return tensor(self.network.get_text_features(ids, mask))


def tensor(features):
    return features if isinstance(features, torch.Tensor) else features.pooler_output


def test_the_score_is_torchmetrics_without_its_factor(folder, pictures):
    fidelity.import_torch_fidelity()  # torchmetrics imports it
    from torchmetrics.functional.multimodal.clip_score import _clip_score_update as update

    ours = load_scorer(f"clip:{folder}", torch.device("cpu"))(pictures, PROMPTS)
    scorer = ClipScorer(folder)
    pixels = [torch.from_numpy(np.array(picture)).permute(2, 0, 1) for picture in pictures]
    theirs, count = update(pixels, PROMPTS, Features(scorer.network), scorer.processor)
    assert count == 3 and torch.allclose(torch.tensor(ours) * 100, theirs, atol=1e-3)
    assert len(set(ours)) == 3 and all(-1 <= score <= 1 for score in ours)


def test_a_picture_has_the_same_score_alone(folder, pictures):
    """Padding to the longest prompt changes nothing."""
    scorer = ClipScorer(folder)
    alone = [scorer([picture], [prompt])[0] for picture, prompt in zip(pictures, PROMPTS)]
    assert scorer(pictures, PROMPTS) == pytest.approx(alone, abs=1e-6)


def test_a_long_prompt_is_cut(folder, pictures):
    """At the length that CLIP reads, with its end token. (torchmetrics cuts that off, too.)"""
    scorer = ClipScorer(folder)
    whole, long, longer = scorer(pictures[:1] * 3, ["x " * 22, "x " * 40, "x " * 22 + "cat"])
    assert [long, longer] == pytest.approx([whole] * 2, abs=1e-6)
    assert whole != pytest.approx(scorer(pictures[:1], ["x"])[0], abs=1e-6)


def test_the_image_processor_in_either_file(folder, pictures, tmp_path):
    """Published folders have preprocessor_config.json; transformers 5 writes processor_config.json."""
    other = shutil.copytree(folder, tmp_path / "other")
    newer = other / "processor_config.json"
    if not newer.is_file():
        pytest.skip("this transformers writes the older file")
    (other / "preprocessor_config.json").write_text(json.dumps(json.loads(newer.read_text())["image_processor"]))
    newer.unlink()
    assert ClipScorer(other)(pictures, PROMPTS) == ClipScorer(folder)(pictures, PROMPTS)


def test_pictures_of_other_modes(folder, pictures):
    scorer = ClipScorer(folder)
    assert scorer([pictures[0].convert("RGBA")], ["a cat"]) == scorer([pictures[0]], ["a cat"])


def test_a_folder_that_is_no_clip_is_refused(folder, tmp_path):
    with pytest.raises(InputError, match=r"has no config\.json"):
        load_scorer(f"clip:{tmp_path}")
    shutil.copytree(folder, tmp_path / "no weights")
    (tmp_path / "no weights" / "model.safetensors").write_bytes(b"none")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_scorer(f"clip:{tmp_path / 'no weights'}")
    shutil.copytree(folder, tmp_path / "half")
    from safetensors.torch import load_file, save_file

    file = tmp_path / "half" / "model.safetensors"
    weights = load_file(file)
    del weights["visual_projection.weight"]
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match="lacks weights of a CLIP model"):
        load_scorer(f"clip:{tmp_path / 'half'}")
