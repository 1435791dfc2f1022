"""Scorers by a text, and imscore's models behind a package that is not there."""

import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from sana_core.errors import InputError
from sana_core.scoring import load_scorer


@pytest.mark.parametrize("text", ["", "clip", "clip:", "beauty:folder", "folder"])
def test_an_unknown_scorer_is_told_what_there_is(text):
    with pytest.raises(
        InputError, match=r"is no scorer, expected one of clip:FOLDER, nvila:FOLDER or imscore:NAME \(p"
    ):
        load_scorer(text)


def test_imscores_names():
    with pytest.raises(InputError, match="imscore has no scorer 'beauty' here, expected one of pickscore, hpsv2"):
        load_scorer("imscore:beauty")


def test_without_imscore(monkeypatch):
    monkeypatch.setitem(sys.modules, "imscore", None)
    with pytest.raises(InputError, match=r"imscore:pickscore needs a package .* pip install imscore"):
        load_scorer("imscore:pickscore")


@pytest.fixture
def package(monkeypatch):
    """imscore's interface, as its README has it: from_pretrained, and score(pixels in 0..1, prompts)."""

    class PickScorer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.tensor(2.0))

        @classmethod
        def from_pretrained(cls, repository):
            if repository != "RE-N-Y/pickscore":
                raise OSError("no network")
            return cls()

        def score(self, pixels, prompts):
            assert pixels.shape[1] == 3 and len(prompts) == len(pixels)
            return (self.weight * pixels.mean(dim=(1, 2, 3)))[:, None]

    module = ModuleType("imscore.pickscore.model")
    module.PickScorer = PickScorer
    other = ModuleType("imscore.hps.model")
    other.HPSv2 = PickScorer
    for name in ("imscore", "imscore.pickscore", "imscore.hps"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "imscore.pickscore.model", module)
    monkeypatch.setitem(sys.modules, "imscore.hps.model", other)


def test_pictures_reach_imscore_in_0_to_1(package):
    pictures = [Image.new("RGB", (8, 4), (level, level, level)) for level in (0, 255, 51)]
    scores = load_scorer("imscore:pickscore", torch.device("cpu"))(pictures, ["a cat"] * 3)
    assert np.allclose(scores, [0.0, 2.0, 0.4])


def test_weights_that_cannot_be_had(package):
    with pytest.raises(InputError, match=r"weights of imscore:hpsv2 \(RE-N-Y/hpsv21\) cannot be loaded \(no network\)"):
        load_scorer("imscore:hpsv2")
