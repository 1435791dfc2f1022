"""Load SANA Scorer and SANA Best Of N over HTTP: the pictures that the library would keep."""

import numpy as np
import pytest
from e2e.graphs import PROMPT, Parts
from e2e.server import ExecutionFailed, Graph, PromptRefused
from PIL import Image
from scoring_files import write_clip

from sana_core.scoring import load_scorer


@pytest.fixture(scope="module")
def clip(server):
    folder = server.base / "models" / "sana_scorers"
    folder.mkdir(exist_ok=True)
    return write_clip(folder / "tiny")


def best(parts, keep, scorer="clip: tiny"):
    samples = parts.sample(latent_image=parts.empty(batch=5))
    images, scorer = parts.decode(samples), parts.g.add("SanaNativeLoadScorer", scorer=scorer)
    kept = parts.g.add("SanaNativeBestOf", images=images, prompt=PROMPT, scorer=scorer, keep=keep, latents=samples)
    return images, samples, kept


def test_the_best_of_a_batch(server, clip):
    parts = Parts()
    images, samples, kept = best(parts, 2)
    every, found = server.pictures(parts.g, images), server.pictures(parts.g, kept)
    scores = load_scorer(f"clip:{clip}")([Image.fromarray(picture) for picture in every], [PROMPT] * 5)
    order = np.argsort(scores)[::-1][:2].tolist()
    assert np.array_equal(found, every[order])
    assert server.latents(parts.g, kept[1]).equal(server.latents(parts.g, samples)[order])
    text = parts.g.add("PreviewAny", source=kept[2])
    (said,) = server.run(parts.g)[text.id]["text"]
    assert said.splitlines()[0].startswith(f"1. picture {order[0] + 1}: {max(scores):.3g}"[:-1])
    assert server.pictures(parts.g, kept[3]).shape == (1, 400, 640, 3)


def test_a_scorer_that_is_not_there_stops_the_run_before_a_picture_is_drawn(server, clip):
    parts = Parts()
    _, _, kept = best(parts, 1, "clip: other")
    with pytest.raises(PromptRefused, match="there is no scorer clip: other: put the folder of a CLIP model"):
        server.pictures(parts.g, kept)


def test_more_than_there_are_is_refused(server, clip):
    parts = Parts(Graph())
    _, _, kept = best(parts, 6)
    with pytest.raises(ExecutionFailed, match="6 pictures cannot be kept of 5: keep fewer, or draw more"):
        server.pictures(parts.g, kept)
