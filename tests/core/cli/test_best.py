"""--best-of on a whole tiny random SANA."""

import json

import numpy as np
import pytest
import tiny_pipeline
from PIL import Image

from sana_core.cli import best, main
from sana_core.errors import InputError
from sana_core.pipeline import load_pipeline
from sana_core.scoring import candidate_seeds
from sana_core.scoring.expected import expected_best

SIZE = ["--size", "64x32", "--steps", "2", "--seed", "5"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return tiny_pipeline.write_files(tmp_path_factory.mktemp("sana"))


@pytest.fixture
def model(files):
    options = [(f"--{part.replace('_', '-')}", str(path)) for part, path in files.items()]
    return [text for option in options for text in option] + ["--device", "cpu"]


def redness(picture):
    return float(np.asarray(picture, dtype=float)[..., 0].mean())


@pytest.fixture
def scorer(monkeypatch):
    """Put a function in the place of the loaded scorer."""

    def put(function):
        monkeypatch.setattr(best, "load_scorer", lambda text, device, verifier_python: function)
        return ["--scorer", "clip:somewhere/clip"]

    return put


@pytest.fixture
def by_redness(scorer):
    return scorer(lambda pictures, prompts: [redness(picture) for picture in pictures])


def opened(path):
    with Image.open(path) as picture:
        picture.load()
        return picture, json.loads(picture.info["sana"])


def test_the_best_are_saved_and_can_be_drawn_again_alone(model, files, tmp_path, by_redness, capsys):
    options = [*by_redness, "--best-of", "7", "--keep", "3", "--batch", "2"]
    assert main(["a cat", "-o", str(tmp_path / "c.png"), *SIZE, *options, *model]) == 0
    pipeline, seeds = load_pipeline(files, device="cpu"), candidate_seeds(5, 7)
    alone = {seed: pipeline("a cat", width=64, height=32, steps=2, seed=seed)[0] for seed in seeds}
    expected = sorted(seeds, key=lambda seed: -redness(alone[seed]))[:3]
    paths = sorted(tmp_path.iterdir())
    assert [path.name for path in paths] == ["c-0001.png", "c-0002.png", "c-0003.png"]
    for rank, (path, seed) in enumerate(zip(paths, expected), 1):
        picture, record = opened(path)
        assert np.abs(np.asarray(picture, dtype=int) - np.asarray(alone[seed], dtype=int)).max() <= 1
        wanted = {"seed": seed, "rank": rank, "best_of": 7, "scorer": "clip:clip", "batch_size": 1, "batch_index": 0}
        assert record | wanted == record and record["score"] == pytest.approx(redness(alone[seed]), abs=0.1)
    said = capsys.readouterr()
    assert said.out.splitlines() == [str(path) for path in paths]
    line = next(line for line in said.err.splitlines() if line.startswith(f"1/3: seed {expected[0]}, 64x32, 2 steps,"))
    assert line.endswith(f"s, score {opened(paths[0])[1]['score']:.4g}")


def test_the_best_of_one_is_the_plain_picture(model, tmp_path, by_redness):
    assert main(["a cat", "-o", str(tmp_path / "best.png"), *SIZE, *by_redness, "--best-of", "1", *model]) == 0
    assert main(["a cat", "-o", str(tmp_path / "plain.png"), *SIZE, *model]) == 0
    assert opened(tmp_path / "best.png")[0].tobytes() == opened(tmp_path / "plain.png")[0].tobytes()


def test_files_of_scores_over_many_prompts(model, tmp_path, by_redness, capsys):
    (tmp_path / "p.jsonl").write_text('"a cat"\n{"prompt": "a dog", "seed": 9, "batch_size": 4}\n')
    table, plot = tmp_path / "s.json", tmp_path / "s.png"
    options = ["--best-of", "5", "--scores", str(table), "--scores", str(plot), "--json", *by_redness]
    assert (
        main(["--prompt-file", str(tmp_path / "p.jsonl"), "-o", str(tmp_path / "{seed}.png"), *SIZE, *options, *model])
        == 0
    )
    told = json.loads(table.read_text("utf-8"))
    assert (told["scorer"], told["best_of"], told["keep"]) == ("clip:clip", 5, 1)
    for request, prompt, seed, line in zip(
        told["requests"], ("a cat", "a dog"), (5, 9), capsys.readouterr().out.splitlines()
    ):
        assert (request["prompt"], request["seed"], request["failures"]) == (prompt, seed, [])
        assert [entry["seed"] for entry in request["scores"]] == candidate_seeds(seed, 5)
        scores = [entry["score"] for entry in request["scores"]]
        assert request["expected_best"] == {str(n): pytest.approx(expected_best(scores, n)) for n in (1, 2, 4, 5)}
        kept = max(request["scores"], key=lambda entry: entry["score"])
        assert json.loads(line)["score"] == kept["score"] and (tmp_path / f"{kept['seed']}.png").is_file()
    assert Image.open(plot).size == (640, 400)


def test_a_scorer_that_fails_costs_no_picture(model, tmp_path, scorer, capsys):
    def fails(pictures, prompts):
        raise RuntimeError("no card")

    options = [*scorer(fails), "--best-of", "4", "--keep", "2", "--batch", "4", "--scores", str(tmp_path / "s.json")]
    (tmp_path / "p.txt").write_text("a cat\na dog\n")
    files = ["--prompt-file", str(tmp_path / "p.txt"), "-o", str(tmp_path / "c.png")]
    assert main([*files, *SIZE, *options, *model]) == 2
    found = [opened(path)[1] for path in sorted(tmp_path.glob("c-*.png"))]
    assert [record["seed"] for record in found] == candidate_seeds(5, 2) * 2
    assert [record["score"] for record in found] == [None] * 4
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == (
        "sana: error: the scorer failed (RuntimeError: no card): 2 of 2 prompts have no scores, and their first 2 "
        "candidates were saved"
    )
    assert json.loads((tmp_path / "s.json").read_text())["requests"][0]["expected_best"] == {}


def test_a_batch_says_which_rows_have_no_score(model, tmp_path, scorer, capsys):
    def fails(pictures, prompts):
        raise RuntimeError("no card")

    (tmp_path / "p.txt").write_text("a cat\na dog\n")
    options = [*scorer(fails), "--best-of", "2", "--table", "none", *SIZE]
    assert main(["batch", str(tmp_path / "p.txt"), str(tmp_path / "out"), *options, *model]) == 3
    assert "2 rows drawn, 0 were there; 2 of them have no score, since the scorer failed" in capsys.readouterr().err


def test_a_batch_goes_on_with_the_same_scorer_alone(model, tmp_path, by_redness, capsys):
    """Another model may be in a folder of the same name."""
    (tmp_path / "p.txt").write_text("a cat\na dog\n")
    command = ["batch", str(tmp_path / "p.txt"), str(tmp_path / "out"), *SIZE, *model, "--best-of", "2"]
    command += ["--table", "none", "--rows-per-shard", "1", "--scorer"]
    for place, code in (("a", 0), ("same", 0), ("other", 2)):
        folder = tmp_path / place / "clip"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text('{"a": 2}' if place == "other" else '{"a": 1}')
        assert main([*command, f"clip:{folder}"]) == code
    assert 'holds a batch with best_of [2, 1, "clip:clip", "' in capsys.readouterr().err


@pytest.mark.parametrize("options, said", [
    ("--keep 2", "--keep is about --best-of N"),
    ("--scorer clip:x", "--scorer is about --best-of N"),
    ("--scores s.png", "--scores is about --best-of N"),
    ("--best-of 4", "--best-of needs a --scorer, one of clip:FOLDER"),
    ("--best-of 4 --keep 5 --scorer clip:x", "5 pictures cannot be kept of 4"),
    ("--best-of 0 --scorer clip:x", "expected at least 1"),
    ("--best-of 4 --keep -1 --scorer clip:x", "expected at least 1"),
    ("--best-of 4 --keep 0 --scorer clip:x", "expected at least 1"),
    ("--keep 0", "--keep is about --best-of N"),
    ("--best-of 4 --scorer clip:x --scores s.txt", "expected a file that ends with .png or .json"),
    ("--best-of 4 --scorer clip:x --scores nowhere.png/s.png", "name with --scores a file in a folder"),
    ("--best-of 4 --scorer clip:x --scores a.png", "a.png is the picture itself"),
    ("--best-of 4 --scorer beauty:x", "'beauty:x' is no scorer, expected one of clip:FOLDER"),
    ("--best-of 4 --scorer clip:x", "x has no config.json"),
])  # fmt: skip
def test_mistakes_are_refused_before_the_model_loads(tmp_path, monkeypatch, capsys, options, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nowhere.png").touch()
    monkeypatch.setattr("sana_core.cli.draw.load_pipeline", lambda *_, **__: pytest.fail("the model was loaded"))
    assert main(["a cat", "-o", "a.png", *options.split()]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and said in lines[0]
    assert [path.name for path in tmp_path.iterdir()] == ["nowhere.png"]


def test_a_scorer_that_cannot_be_loaded_ends_the_run(model, tmp_path, monkeypatch, capsys):
    def fails(*_, **__):
        raise InputError("the verifier cannot be loaded")

    monkeypatch.setattr(best, "load_scorer", fails)
    assert main(["a cat", "-o", str(tmp_path / "a.png"), "--best-of", "2", "--scorer", "nvila:x", *model]) == 2
    assert "the verifier cannot be loaded" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_session_draws_the_best_of_each_line(model, tmp_path, by_redness, monkeypatch):
    import io
    import sys

    class Stdin:
        buffer = io.BytesIO(b"/seed 5\na cat\na dog\n")

        def isatty(self):
            return False

    monkeypatch.setattr(sys, "stdin", Stdin())
    options = ["-i", "--best-of", "3", *by_redness, "--size", "64x32", "--steps", "1"]
    assert main(["-o", str(tmp_path / "c.png"), *options, *model]) == 0
    assert [opened(path)[1]["best_of"] for path in sorted(tmp_path.iterdir())] == [3, 3]
