"""Rows drawn by a whole tiny random SANA: pictures that depend on their row alone, and rows that fail."""

from dataclasses import replace

import numpy as np
import pytest
import tiny_pipeline
import torch
from batch_made import rows
from PIL import Image

from sana_core.batch import Drawing, Drawn, Failed
from sana_core.pipeline import Request, load_pipeline

COMMON = Request("", width=64, height=32, steps=2, instruction=None)
WORDS = ("a cat", "a dog", "a red apple on a table", "a cat", "the sun " * 12, "a house")


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return load_pipeline(tiny_pipeline.write_files(tmp_path_factory.mktemp("sana")), device="cpu")


def some(*extra):
    return rows(*({"id": f"r{number}", "prompt": word} for number, word in enumerate(WORDS)), *extra, common=COMMON)


def drawn(pipeline, asked, batch=2, **settings):
    """The pictures by the ids of their rows."""
    found = list(Drawing(pipeline=pipeline, batch=batch, **settings)(asked))
    assert all(isinstance(item, Drawn) for item in found), found
    return {item.row.id: item.picture.tobytes() for item in found}


def test_a_picture_depends_on_its_row_alone(pipeline):
    asked = some()
    whole = drawn(pipeline, asked)
    assert len(whole) == len(asked) and len(set(whole.values())) == len(asked)
    assert drawn(pipeline, asked[::-1]) == whole
    parts = [drawn(pipeline, part) for part in (asked[:1], asked[1:4], asked[4:])]
    assert {name: picture for part in parts for name, picture in part.items()} == whole


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"guidance_scale": 1.0},
        {"negative_prompt": "blurry " * 9, "negative_mask": "positive"},
        {"pag_scale": 2.0, "pag_layers": (0,)},
        {"instruction": "default"},
    ],
    ids=lambda settings: ",".join(settings),
)
def test_the_picture_is_that_of_the_pipeline(pipeline, settings):
    asked = [replace(row, request=row.request.changed(**settings)) for row in some()]
    found = drawn(pipeline, asked, batch=4)
    for row in asked:
        (expected,) = pipeline(row.request)
        picture = np.frombuffer(found[row.id], np.uint8).reshape(32, 64, 3).astype(int)
        assert abs(picture - np.asarray(expected).astype(int)).max() <= 1


def test_rows_of_other_settings_are_drawn_apart(pipeline, monkeypatch):
    sizes = []
    sample = type(pipeline).sample
    monkeypatch.setattr(
        type(pipeline),
        "sample",
        lambda self, run, *rest: sizes.append((run.count, run.steps, run.width)) or sample(self, run, *rest),
    )
    drawn(pipeline, some({"id": "s", "prompt": "x", "steps": 3}, {"id": "w", "prompt": "x", "width": 32}), batch=4)
    # five short prompts, a long one, one of three steps and a narrow one; each batch is full
    assert sorted(sizes) == sorted([(4, 2, 64), (4, 2, 64), (4, 2, 64), (4, 3, 64), (4, 2, 32)])


def test_each_text_is_encoded_once(pipeline, monkeypatch):
    encoder, seen = pipeline.text_encoder, []
    encode = encoder.encode
    monkeypatch.setattr(encoder, "encode", lambda texts, **rest: seen.append(texts) or encode(texts, **rest))
    drawn(pipeline, some())
    texts = [text for batch in seen for text in dict.fromkeys(batch)]
    assert sorted(texts) == sorted({*WORDS, ""}) and {len(batch) for batch in seen} == {16}


def test_offload_draws_the_same(pipeline):
    asked = some()
    assert drawn(replace(pipeline, offload=True), asked) == drawn(pipeline, asked)


def test_start_pictures_and_one_that_is_missing(pipeline, tmp_path):
    Image.radial_gradient("L").resize((64, 32)).convert("RGB").save(tmp_path / "a.png")
    image = {"prompt": "x", "image": str(tmp_path / "a.png"), "strength": 0.5}
    lost = {**image, "image": str(tmp_path / "lost.png")}
    asked = some({"id": "a", **image}, {"id": "b", **lost}, {"id": "c", **image, "prompt": "y"})
    found = list(Drawing(pipeline=pipeline, batch=2)(asked))
    failed = [item for item in found if isinstance(item, Failed)]
    assert [item.row.id for item in failed] == ["b"] and "lost.png is not a picture" in failed[0].reason
    pictures = {item.row.id: item.picture for item in found if isinstance(item, Drawn)}
    assert len(pictures) == len(asked) - 1
    (expected,) = pipeline(asked[-1].request)
    difference = np.asarray(pictures["c"]).astype(int) - np.asarray(expected).astype(int)
    assert abs(difference).max() <= 1


def test_latents_that_are_not_finite(pipeline, monkeypatch):
    sample = type(pipeline).sample

    def broken(self, run, *rest):
        latents = sample(self, run, *rest)
        latents[[prompt == "a dog" for prompt in run.prompt]] = torch.nan
        return latents

    monkeypatch.setattr(type(pipeline), "sample", broken)
    found = list(Drawing(pipeline=pipeline, batch=4)(some()))
    assert [(item.row.id, item.reason) for item in found if isinstance(item, Failed)] == [
        ("r1", "its latents are not finite")
    ]
    assert len(found) == len(WORDS)


@pytest.mark.parametrize("fits", [1, 0])
def test_memory_that_runs_out(pipeline, monkeypatch, fits):
    sample, sizes = type(pipeline).sample, []

    def small(self, run, *rest):
        sizes.append(run.count)
        if run.count > fits:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 1 TB")
        return sample(self, run, *rest)

    monkeypatch.setattr(type(pipeline), "sample", small)
    found = list(Drawing(pipeline=pipeline, batch=4)(some()[:3]))
    assert [isinstance(item, Drawn) for item in found] == [fits == 1] * 3 and sizes[:2] == [4, 2]
    if not fits:
        assert found[0].reason.startswith("out of memory")


def test_a_mistake_of_the_program_is_no_failure(pipeline, monkeypatch):
    def wrong(self, run, *rest):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(type(pipeline), "sample", wrong)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        list(Drawing(pipeline=pipeline)(some()))
