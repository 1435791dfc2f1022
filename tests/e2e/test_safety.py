"""SANA Check Prompt and SANA Prompt Style over HTTP: a refused prompt draws nothing, the others draw what they say."""

import numpy as np
import pytest
import tiny_shield
from e2e.graphs import Parts
from e2e.server import ExecutionFailed, Graph
from safetensors.torch import save_file

from sana_core.safety import HARMLESS, load_shield
from sana_core.styles import styled

GOOD, BAD = "", "street lamps " * 40  # by the answers of the tiny model


@pytest.fixture(scope="module")
def threshold(server):
    """Between the two. Until the end the file is in the server's folder."""
    path = server.base / "models" / "text_encoders" / "shield.safetensors"
    spiece = tiny_shield.spiece()
    tensors, metadata = tiny_shield.single_file(tiny_shield.model(tiny_shield.tokenizer(spiece)), spiece)
    save_file(tensors, path, metadata)
    yield sum(load_shield(path, device="cpu")([GOOD, BAD])) / 2
    path.unlink()


def drawn(server, prompt, **check):
    """The picture of a prompt in a style, behind a check if there is one."""
    g = Graph()
    parts = Parts(g)
    if check:
        shield = g.add("SanaNativeLoadTextEncoder", text_encoder="shield.safetensors")
        prompt = g.add("SanaNativeCheckPrompt", shield=shield, prompt=prompt, **check)
        prompt = g.add("SanaNativeStyle", prompt=prompt, negative_prompt=", red", style="Manga")
        texts = {"positive": prompt, "negative": prompt[1]}
    else:
        texts = dict(zip(("positive", "negative"), styled(prompt, ", red", "Manga")))
    for name, text in texts.items():
        setattr(parts, name, g.add("CLIPTextEncode", clip=parts.clip, text=text))
    return server.pictures(g, parts.picture())


def test_a_refused_prompt_draws_nothing(server, threshold):
    before = sorted((server.base / "output").rglob("*.png"))
    with pytest.raises(ExecutionFailed, match=r"street lamps .* is against the policy .* Nothing was drawn"):
        drawn(server, BAD, threshold=threshold, action="refuse")
    assert sorted((server.base / "output").rglob("*.png")) == before


@pytest.mark.parametrize("prompt, words", [(GOOD, GOOD), (BAD, HARMLESS)])
def test_what_passes_is_drawn_in_its_style(server, threshold, prompt, words):
    found = drawn(server, prompt, threshold=threshold, action="replace")
    assert np.array_equal(found, drawn(server, words))
