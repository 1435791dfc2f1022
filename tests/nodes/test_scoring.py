"""The nodes that load scorers and keep the best pictures."""

import json
import re
import sys

import comfy.model_management as host
import folder_paths
import pytest
import torch
from comfy_execution.graph_utils import ExecutionBlocker
from sana_pack.nodes import best_of
from sana_pack.nodes.bridge import paths, scoring
from sana_pack.sana_core.errors import InputError
from sana_pack.sana_core.scoring import nvila
from scoring_files import write_clip

VERIFIER = """
import base64, io, json, sys
from PIL import Image
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    level = Image.open(io.BytesIO(base64.b64decode(json.loads(line)["picture"]))).getpixel((0, 0))[0]
    print(json.dumps({"answer": "yes" if level > 99 else "no", "yes": level, "no": -level}), flush=True)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """models/sana_scorers, empty."""
    monkeypatch.setitem(folder_paths.folder_names_and_paths, paths.SCORERS, ([str(tmp_path)], set()))
    return tmp_path


def grey(*levels):
    return torch.tensor(levels, dtype=torch.float32)[:, None, None, None].expand(-1, 64, 32, 3) / 255.0


def brightness(pictures, prompts):
    return [picture.getpixel((0, 0))[0] for picture in pictures]


def kept(images):
    return [round(level * 255) for level in images[:, 0, 0, 0].tolist()]


def run(images, scorer, keep, latents=None):
    return best_of.SanaNativeBestOf.execute(images, "a cat", scorer, keep, latents).result


def test_the_best_pictures_with_their_latents():
    images = grey(10, 200, 30, 90)
    latents = {"samples": torch.arange(4.0)[:, None, None, None].expand(-1, 32, 2, 1), "batch_index": [4, 5, 6, 7],
               "noise_mask": torch.rand(1, 64, 32)}  # fmt: skip
    found, chosen, scores, plot = run(images, brightness, 2, latents)
    assert kept(found) == [200, 90] and found.shape == (2, 64, 32, 3)
    assert chosen["samples"][:, 0, 0, 0].tolist() == [1.0, 3.0] and chosen["batch_index"] == [5, 7]
    assert torch.equal(chosen["noise_mask"], latents["noise_mask"]) and latents["batch_index"] == [4, 5, 6, 7]
    assert scores.splitlines() == ["1. picture 2: 200", "2. picture 4: 90", "3. picture 3: 30", "4. picture 1: 10"]
    assert plot.shape == (1, 400, 640, 3) and 0.0 <= plot.min() < plot.max() <= 1.0


def test_without_latents_nothing_behind_that_output_runs():
    assert isinstance(run(grey(1, 2), brightness, 1)[1], ExecutionBlocker)


def test_grey_pictures_of_one_channel():
    assert run(grey(1, 9, 5)[..., :1], brightness, 1)[0].shape == (1, 64, 32, 1)


def test_every_picture_is_scored_with_the_prompt_a_few_at_once():
    seen = []

    def scorer(pictures, prompts):
        seen.append((len(pictures), set(prompts)))
        return brightness(pictures, prompts)

    assert kept(run(grey(*range(20)), scorer, 3)[0]) == [19, 18, 17]
    assert sum(count for count, _ in seen) == 20 and all(prompts == {"a cat"} for _, prompts in seen)
    assert max(count for count, _ in seen) <= 8


@pytest.mark.parametrize("answer, said", [
    (RuntimeError("no card"), "the scorer failed (RuntimeError: no card)"),
    ("nonsense", "gave 8 scores for 3 pictures"),
    ([float("nan")] * 3, "gave nan where a number belongs"),
])  # fmt: skip
def test_a_scorer_that_fails_costs_no_picture(answer, said):
    def scorer(pictures, prompts):
        if isinstance(answer, Exception):
            raise answer
        return answer

    images, _, scores, plot = run(grey(7, 8, 9), scorer, 2)
    assert kept(images) == [7, 8] and plot.shape == (1, 400, 640, 3)
    lines = scores.splitlines()
    assert said in lines[0] and lines[1:] == [f"{n}. picture {n}: no score" for n in (1, 2, 3)]


@pytest.mark.parametrize("scorer, keep, latents, said", [
    (brightness, 4, None, "4 pictures cannot be kept of 3"),
    (brightness, 1, {"samples": torch.zeros(2, 32, 2, 1)}, "2 latents for 3 images"),
    ("clip", 1, None, "scorer is 'clip', expected the output of a node"),
    (object(), 1, None, "scorer is object, expected that of Load SANA Scorer"),
    (brightness, 1, "latents", "latents is 'latents', expected the output of a node"),
])  # fmt: skip
def test_other_inputs_are_refused(scorer, keep, latents, said):
    with pytest.raises(InputError, match=said):
        run(grey(1, 2, 3), scorer, keep, latents)
    with pytest.raises(InputError, match="there are no images"):
        run(None, brightness, 1)


def test_an_interrupt_stops_between_rounds():
    def scorer(pictures, prompts):
        host.interrupt_current_processing()
        return brightness(pictures, prompts)

    try:
        with pytest.raises(host.InterruptProcessingException):
            run(grey(*range(20)), scorer, 1)
    finally:
        host.interrupt_current_processing(False)


# --- the loader


def test_the_list_knows_what_is_in_the_folder(folder):
    assert scoring.scorer_names()[-1] == scoring.NONE
    for name, config in (("a", {"model_type": "clip"}), ("b", {"auto_map": {}}), ("c", {}), ("d", [])):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(config))
    (folder / "e").mkdir()
    (folder / "e" / "config.json").write_text("{")
    assert sorted(scoring.scorer_names()) == ["clip: a", "nvila: b"]


@pytest.mark.parametrize("name, called", [
    (scoring.NONE, "no scorer:"), ("clip: ../other", "no scorer clip: ../other:"), ("clip: ", "no scorer clip: :"),
    ("nvila: /tmp", "no scorer nvila: /tmp:"), ({"a": 1}, "no scorer {'a': 1}:"),
])  # fmt: skip
def test_what_is_not_in_the_folder_is_refused_before_a_picture_is_drawn(folder, name, called):
    said = best_of.SanaNativeLoadScorer.validate_inputs(name)
    assert said == (
        f"there is {called} put the folder of a CLIP model, with config.json, into models/sana_scorers and press R, or "
        "choose another"
    )
    with pytest.raises(InputError, match=re.escape(said)):
        scoring.host_scorer(name)


def test_a_listed_scorer_passes_the_hosts_check(folder):
    (folder / "a").mkdir()
    (folder / "a" / "config.json").write_text('{"model_type": "clip"}')
    assert best_of.SanaNativeLoadScorer.validate_inputs("clip: a") is True
    assert best_of.SanaNativeLoadScorer.validate_inputs("imscore: pickscore") is True


@pytest.mark.parametrize("value", [None, 3, ["a cat"]])
def test_a_prompt_that_is_no_text_is_refused(value):
    with pytest.raises(InputError, match=r"^prompt is .*, expected a text$"):
        best_of.SanaNativeBestOf.execute(grey(1, 2), value, brightness, 1)


def test_clip_is_in_the_hands_of_the_host(folder):
    write_clip(folder / "tiny")
    (scorer,) = best_of.SanaNativeLoadScorer.execute("clip: tiny").result
    images, _, scores, _ = run(torch.rand(3, 48, 64, 3), scorer, 2)
    assert len(images) == 2 and len(scores.splitlines()) == 3 and "no score" not in scores
    assert scorer.patcher in [loaded.model for loaded in host.current_loaded_models]
    host.unload_all_models()
    assert scorer.patcher not in [loaded.model for loaded in host.current_loaded_models]
    assert run(torch.rand(3, 48, 64, 3), scorer, 1)[2].startswith("1. picture")  # loads again


def test_the_verifier_gets_room_and_ends_with_the_node(folder, tmp_path, monkeypatch):
    (folder / "verifier").mkdir()
    (folder / "verifier" / "config.json").write_text('{"auto_map": {}}')
    script = tmp_path / "stand_in.py"
    script.write_text(VERIFIER)
    monkeypatch.setenv(nvila.PYTHON, sys.executable)
    freed = []
    monkeypatch.setattr(host, "free_memory", lambda size, device: freed.append(size))
    (scorer,) = best_of.SanaNativeLoadScorer.execute("nvila: verifier").result
    scorer.scorer.command[2] = str(script)
    assert not scorer.scorer.runs  # until it is asked
    assert kept(run(grey(10, 200, 120), scorer, 3)[0]) == [200, 120, 10]
    assert freed == [scoring.VERIFIER_BYTES] and not scorer.scorer.runs


def test_a_verifier_that_cannot_start_costs_no_picture(folder, monkeypatch):
    (folder / "verifier").mkdir()
    (folder / "verifier" / "config.json").write_text('{"auto_map": {}}')
    monkeypatch.delenv(nvila.PYTHON, raising=False)
    with pytest.raises(InputError, match=r"\$SANA_VERIFIER_PYTHON"):
        scoring.host_scorer("nvila: verifier")
    monkeypatch.setenv(nvila.PYTHON, str(folder / "no-python"))
    images, _, scores, _ = run(grey(1, 2), scoring.host_scorer("nvila: verifier"), 1)
    assert kept(images) == [1] and "no-python cannot be started" in scores.splitlines()[0]
