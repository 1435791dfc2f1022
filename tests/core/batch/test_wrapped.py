"""What stands before and around the drawing of rows: the check of prompts, the best of many candidates."""

import pytest
import tiny_pipeline
import torch
from batch_made import draw, rows

from sana_core.batch import Drawing, Drawn, Failed
from sana_core.batch.best import BestOf, check_names
from sana_core.batch.checked import Checked
from sana_core.errors import InputError
from sana_core.pipeline import load_pipeline
from sana_core.pipeline.request import Request
from sana_core.safety import HARMLESS, PromptCheck
from sana_core.scoring.select import candidate_seeds


def shield(prompts, progress):
    """Bad words are bad; a long one cannot be read."""
    if any("long" in prompt for prompt in prompts):
        raise InputError("it is too long")
    return [0.9 if "bad" in prompt else 0.1 for prompt in prompts]


def test_refused_rows_fail_and_the_others_are_drawn():
    found = list(Checked(draw=draw, check=PromptCheck(shield=shield))(rows("good", "bad", "fine")))
    assert [item.row.request.prompt for item in found if isinstance(item, Drawn)] == ["good", "fine"]
    (failed,) = [item for item in found if isinstance(item, Failed)]
    assert "against the policy" in failed.reason and failed.row.request.prompt == "bad"


def test_a_row_of_a_replaced_prompt_that_fails_keeps_its_own():
    """It is what the file for a second try holds."""
    check = PromptCheck(shield=shield, action="replace")
    (failed,) = Checked(draw=lambda asked: (Failed(row, "it rained") for row in asked), check=check)(rows("bad"))
    assert isinstance(failed, Failed) and failed.row.entry()["prompt"] == "bad"


def test_rows_of_a_replaced_prompt_are_drawn():
    check = PromptCheck(shield=shield, action="replace")
    assert [item.row.request.prompt for item in Checked(draw=draw, check=check)(rows("bad"))] == [HARMLESS]


def test_a_prompt_that_cannot_be_checked_costs_no_other():
    found = list(Checked(draw=draw, check=PromptCheck(shield=shield))(rows("good", "long", "bad")))
    reasons = {item.row.request.prompt: item.reason for item in found if isinstance(item, Failed)}
    assert "cannot be checked (it is too long)" in reasons["long"] and "against the policy" in reasons["bad"]
    assert len(found) == 3 and isinstance(found[-1], Drawn)


def test_prompts_are_read_once_and_together():
    calls = []

    def counted(prompts, progress):
        calls.append(list(prompts))
        return [0.0 for _ in prompts]

    list(Checked(draw=draw, check=PromptCheck(shield=counted))(rows("b", "a", "b")))
    assert calls == [["a", "b"]]


@pytest.fixture(scope="module")
def drawing(tmp_path_factory):
    files = tiny_pipeline.write_files(tmp_path_factory.mktemp("sana"))
    return Drawing(pipeline=load_pipeline(files, device="cpu"), batch=2)


COMMON = Request("", width=64, height=32, steps=1)


def test_the_best_candidates_of_each_row(drawing):
    """The scorer likes the brightest: so do we, among all candidates drawn alone."""

    def bright(pictures, prompts):
        return [sum(picture.convert("L").tobytes()) for picture in pictures]

    (row,) = rows("a cat", common=COMMON)
    items = list(BestOf(drawing=drawing, scorer=bright, name="bright", count=5, keep=2)([row]))
    assert [item.end for item in items] == ["-best2", ""] and [item.record["rank"] for item in items] == [2, 1]
    seeds = candidate_seeds(row.request.seed, 5)
    alone = {seed: drawing.pipeline(row.request, seed=seed)[0] for seed in seeds}
    ranked = sorted(seeds, key=lambda seed: -bright([alone[seed]], [""])[0])
    assert [item.record["seed"] for item in items] == [ranked[1], ranked[0]]
    assert items[-1].record["best_of"] == 5 and items[-1].record["id"] == row.id


def test_a_row_that_is_called_like_another_picture():
    named = rows({"id": "a", "prompt": "x"}, {"id": "a-best2", "prompt": "y"})
    check_names(named, 1)
    with pytest.raises(InputError, match='row 2: "a-best2" is what another picture of row 1 is called'):
        check_names(named, 2)
    with pytest.raises(InputError, match="row 2: "):
        check_names(rows({"id": "a", "prompt": "x"}, {"id": "b", "file": "A-best3", "prompt": "y"}), 3)


def test_a_scorer_that_fails_costs_no_picture(drawing):
    def fails(pictures, prompts):
        raise ValueError("broken")

    (row,) = rows("a cat", common=COMMON)
    (item,) = BestOf(drawing=drawing, scorer=fails, name="fails", count=3)([row])
    assert item.record["seed"] == row.request.seed and item.record["score"] is None


def test_memory_that_is_short_fails_one_row(drawing, monkeypatch):
    def short(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(type(drawing.pipeline), "sample", short)
    (item,) = BestOf(drawing=drawing, scorer=lambda *_: [1.0], name="x", count=1)(rows("a cat", common=COMMON))
    assert isinstance(item, Failed) and "out of memory" in item.reason
