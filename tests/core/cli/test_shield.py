"""--shield and --style on a whole tiny random SANA with a tiny ShieldGemma: what is drawn and what is said."""

import gc
import io
import json
import re
import sys
import weakref

import pytest
import tiny_pipeline
import tiny_shield
from PIL import Image
from safetensors.torch import save_file

import sana_core.cli as cli
import sana_core.cli.draw as draw
import sana_core.cli.shield as shield_options
from sana_core.cli import main
from sana_core.pipeline import load_pipeline
from sana_core.safety import HARMLESS, load_shield
from sana_core.styles import styled

QUICK = ["--device", "cpu", "--size", "32", "--steps", "1", "--seed", "5"]
GOOD, BAD = "", "street lamps " * 40  # by the answers of the tiny model


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return tiny_pipeline.write_files(tmp_path_factory.mktemp("sana"))


@pytest.fixture(scope="module")
def shield(tmp_path_factory):
    """Path, and the probabilities of GOOD and BAD."""
    path = tmp_path_factory.mktemp("shield") / "shield.safetensors"
    spiece = tiny_shield.spiece()
    tensors, metadata = tiny_shield.single_file(tiny_shield.model(tiny_shield.tokenizer(spiece)), spiece)
    save_file(tensors, path, metadata)
    return path


@pytest.fixture(scope="module")
def limits(shield):
    """A threshold between the two, and each exactly."""
    good, bad = load_shield(shield, device="cpu")([GOOD, BAD])
    assert good + 0.1 < bad
    return {"between": (good + bad) / 2, "at": bad, "below": bad - 1e-6}


@pytest.fixture
def model(files):
    options = [(f"--{part.replace('_', '-')}", str(path)) for part, path in files.items()]
    return [*(text for option in options for text in option), *QUICK]


def record(path):
    with Image.open(path) as picture:
        return json.loads(picture.info["sana"])


@pytest.fixture
def nothing_loads(monkeypatch):
    monkeypatch.setattr(draw, "load_pipeline", lambda *_, **__: pytest.fail("the networks were loaded"))


def test_a_refused_prompt(model, shield, limits, tmp_path, capsys, nothing_loads):
    limit = limits["below"]
    options = ["-o", str(tmp_path / "new" / "a.png"), "--shield", str(shield), "--shield-threshold", repr(limit)]
    assert main([BAD, *options, *model]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("sana: error: the prompt 'street lamps") and said.err.count("\n") == 1
    assert f"threshold {limit:g}" in said.err and "Nothing was drawn" in said.err and said.out == ""
    assert list(tmp_path.iterdir()) == []


def test_exactly_at_the_threshold_it_is_drawn(model, shield, limits, tmp_path, files):
    options = ["-o", str(tmp_path / "a.png"), "--shield", str(shield), "--shield-threshold", repr(limits["at"])]
    assert main([BAD, *options, "--quiet", *model]) == 0
    assert "shield" not in record(tmp_path / "a.png") and record(tmp_path / "a.png")["prompt"] == BAD
    (expected,) = load_pipeline(files, device="cpu")(BAD, width=32, height=32, steps=1, seed=5)
    with Image.open(tmp_path / "a.png") as drawn:
        assert drawn.tobytes() == expected.tobytes()


def test_one_of_a_file_is_refused_and_none_is_drawn(model, shield, limits, tmp_path, capsys, nothing_loads):
    prompts = tmp_path / "p.jsonl"
    prompts.write_text("\n".join(json.dumps({"prompt": text}) for text in (GOOD, BAD, GOOD)))
    options = ["--prompt-file", str(prompts), "-o", str(tmp_path / "a.png"), "--shield", str(shield), "--json"]
    assert main([*options, "--shield-threshold", str(limits["between"]), *model]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert error.startswith("1 of 2 prompts are against the policy") and list(tmp_path.iterdir()) == [prompts]


def test_a_replaced_prompt(model, shield, limits, tmp_path, capsys, files):
    prompts = tmp_path / "p.json"
    prompts.write_text(json.dumps([GOOD, {"prompt": BAD, "style": "anime"}]))
    options = ["--prompt-file", str(prompts), "-o", str(tmp_path / "a.png"), "--shield", str(shield), "--quiet"]
    options += ["--shield-action", "replace", "--shield-threshold", str(limits["between"])]
    assert main([*options, *model]) == 0
    assert '"A red heart." is drawn in place of the prompt' in capsys.readouterr().err
    good, bad = (record(tmp_path / f"a-000{number}.png") for number in (1, 2))
    assert "shield" not in good and (bad["shield"], bad["prompt"], bad["style"]) == ("replaced", HARMLESS, "Anime")
    assert "street" not in (tmp_path / "a-0002.png").read_bytes().decode("latin-1")
    prompt, negative = styled(HARMLESS, "", "Anime")
    (expected,) = load_pipeline(files, device="cpu")(prompt, negative, width=32, height=32, steps=1, seed=5)
    with Image.open(tmp_path / "a-0002.png") as drawn:
        assert drawn.tobytes() == expected.tobytes()


def test_its_memory_is_given_back_before_the_networks_are_loaded(model, shield, tmp_path, monkeypatch):
    checks, real = [], shield_options.load_shield

    def loaded(*args, **options):
        found = real(*args, **options)
        checks.append(weakref.ref(found.encoder))
        return found

    def load(*args, **options):
        gc.collect()
        assert [check() for check in checks] == [None]
        return load_pipeline(*args, **options)

    monkeypatch.setattr(shield_options, "load_shield", loaded)
    monkeypatch.setattr(draw, "load_pipeline", load)
    options = ["-o", str(tmp_path / "a.png"), "--shield", str(shield), "--shield-threshold", "1", "--quiet"]
    assert main(["a red apple", *options, *model]) == 0 and len(checks) == 1


def test_each_line_of_a_session(model, shield, limits, tmp_path, monkeypatch, capsys):
    lines = f"{BAD}\na\n/style pixel art\na\n/style oil\n/style\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode()), encoding="ascii"))
    drawn, real = [], cli._draw
    monkeypatch.setattr(cli, "_draw", lambda *a: drawn.append(a[1].prompt[0]) or real(*a))
    options = ["-i", "-o", str(tmp_path / "a.png"), "--shield", str(shield), "--quiet"]
    (probability,) = load_shield(shield, device="cpu")(["a"])
    limit = (load_shield(shield, device="cpu")([BAD.strip()])[0] + probability) / 2
    assert main([*options, "--shield-threshold", str(limit), *model]) == 2
    assert drawn == ["a", styled("a", "", "Pixel art")[0]]
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3 and "Nothing was drawn" in said[0] and 'there is no style "oil"' in said[1]
    assert record(tmp_path / "a-0002.png")["style"] == "Pixel art" and "style" not in record(tmp_path / "a-0001.png")


def test_a_record_draws_its_picture_again(model, tmp_path):
    assert main(["a cat", "-n", ", x", "--style", "PIXEL art", "-o", str(tmp_path / "a.png"), "--quiet", *model]) == 0
    kept = record(tmp_path / "a.png")
    assert (kept["prompt"], kept["negative_prompt"], kept["style"]) == ("a cat", ", x", "Pixel art")
    names = ("prompt", "negative_prompt", "style", "seed")
    (tmp_path / "p.jsonl").write_text(json.dumps({name: kept[name] for name in names}))
    again = ["--prompt-file", str(tmp_path / "p.jsonl"), "-o", str(tmp_path / "b.png"), "--quiet", *model]
    assert main(again) == 0
    with Image.open(tmp_path / "a.png") as first, Image.open(tmp_path / "b-0001.png") as second:
        assert first.tobytes() == second.tobytes() and first.info == second.info
        assert first.info["parameters"].startswith("pixel-art a cat . low-res")


@pytest.mark.parametrize(
    "options, said",
    [
        (["--shield-threshold", "0.5"], "give --shield"),
        (["--shield-action", "replace"], "give --shield"),
        (["--shield", "x", "--shield-threshold", "2"], "'2' is not|2 is not a probability"),
        (["--shield", "nowhere.safetensors"], "there is no such file"),
        (["--style", "oil"], "expected one of .No style., Cinematic"),
    ],
)
def test_bad_options(model, options, said, capsys, tmp_path, nothing_loads):
    try:
        code = main(["a cat", "-o", str(tmp_path / "a.png"), *options, *model])
    except SystemExit as ended:
        code = ended.code
    err = capsys.readouterr().err
    assert code == 2 and len(err.splitlines()) == 1 and list(tmp_path.iterdir()) == []
    assert re.search(said, err)
