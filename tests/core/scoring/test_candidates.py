"""The candidates of a request, drawn by a tiny random SANA."""

import pytest
import tiny_pipeline
import torch
from PIL import Image

from sana_core.errors import InputError
from sana_core.pipeline import load_pipeline
from sana_core.scoring import candidate_seeds, draw_candidates, select

SETTINGS = {"width": 64, "height": 32, "steps": 2}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return load_pipeline(tiny_pipeline.write_files(tmp_path_factory.mktemp("sana")), device="cpu")


@pytest.mark.parametrize("more", [{}, {"negative_prompt": "blurry", "pag_scale": 2.0, "negative_mask": "positive"},
                                  {"image": Image.radial_gradient("L").convert("RGB"), "strength": 0.5}])  # fmt: skip
def test_each_candidate_is_what_its_seed_draws_alone(pipeline, more):
    settings = SETTINGS | more
    seeds = candidate_seeds(5, 3)
    drawn = draw_candidates(pipeline, pipeline.resolve("a cat", seed=5, **settings))(seeds)
    for seed, (picture, latent) in zip(seeds, drawn):
        alone = pipeline("a cat", seed=seed, output="latent", **settings)
        assert torch.allclose(latent, alone[0], atol=1e-5)
        assert latent.untyped_storage().nbytes() == latent.nbytes  # nothing of the round stays with it
        assert picture.tobytes() == pipeline.decode(latent[None])[0].tobytes()


def test_the_prompt_is_encoded_once(pipeline, monkeypatch):
    texts, encode = [], type(pipeline).encode_text
    monkeypatch.setattr(type(pipeline), "encode_text", lambda self, run: texts.append(run.prompt) or encode(self, run))
    draw = draw_candidates(pipeline, pipeline.resolve("a cat", seed=5, **SETTINGS))
    select(draw, candidate_seeds(5, 5), "a cat", lambda pictures, prompts: [0] * len(pictures), at_once=2)
    assert texts == [("a cat",)]


@pytest.mark.parametrize("prompt, more, said", [
    (["a cat", "a dog"], {}, "one prompt at a time"),
    ("a cat", {"batch_size": 2, "image": torch.rand(2, 3, 32, 64)}, "from one picture"),
    ("a cat", {"latents": torch.randn(1, 32, 1, 2)}, "leave out latents and step_noise"),
])  # fmt: skip
def test_what_cannot_be_a_candidate_is_refused(pipeline, prompt, more, said):
    with pytest.raises(InputError, match=said):
        draw_candidates(pipeline, pipeline.resolve(prompt, seed=5, **SETTINGS, **more))
