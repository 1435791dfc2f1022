"""The command `train`: a plan, a training, how it goes on, and how it ends."""

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from sana_core.cli import main
from sana_core.lora import load_lora
from sana_core.sources import NANO_FILES

QUICK = ("--steps", "2", "--batch", "2", "--at-once", "2", "--rank", "2", "--device", "cpu", "-q")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for index, colour in enumerate(("red", "blue", "green")):
        Image.new("RGB", (256, 256), colour).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(f"a {colour} zorble")
    return folder


@pytest.fixture
def target(tmp_path):
    return tmp_path / "new.safetensors"


def said(capsys):
    """The JSON object on stdout."""
    (line,) = capsys.readouterr().out.splitlines()
    return json.loads(line)


def test_a_plan_loads_and_writes_nothing(pictures, target, capsys):
    assert main(["train", "lora", "--data", str(pictures), "--out", str(target), "--plan", "--json"]) == 0
    plan = said(capsys)
    assert plan["pictures"] == 3 and plan["sizes"] == {"256x256": 3} and plan["steps"] == 500
    assert 0 < plan["bytes"]["weights"] < plan["bytes"]["steps"] <= plan["bytes"]["peak"]
    assert list(target.parent.iterdir()) == []
    assert main(["train", "lora", "--data", str(pictures), "--out", str(target), "--plan"]) == 0
    assert "3 at 256 x 256" in capsys.readouterr().out
    more = ["--sample", "a zorble", "--sample", "a dog", "--sample-every", "7", "--prior-prompt", "a dog", "--plan"]
    assert main(["train", "lora", "--data", str(pictures), "--out", str(target), *more]) == 0
    plan = capsys.readouterr().out
    assert "samples: 2 of 256 x 256, every 7 steps and at the end" in plan and "pictures of the class: 100 in" in plan
    assert list(target.parent.iterdir()) == []


def test_a_lora_and_more_steps(pictures, target, capsys):
    command = ["train", "lora", "--data", str(pictures), "--out", str(target), "--json", *QUICK]
    assert main([*command, "--sample", "a red zorble"]) == 0
    assert said(capsys) == {"file": str(target), "finished": True, "folder": str(target.with_suffix(".training"))}
    assert load_lora(target).has_transformer
    first = load_file(target)
    with Image.open(target.with_suffix(".training") / "samples" / "0000002.png") as sheet:
        record = json.loads(sheet.text["sana"])
        assert sheet.size == (256, 256) and len(sheet.getcolors(1 << 16)) > 1000
    (drawn,) = record["pictures"]
    assert record["step"] == 2 and drawn["prompt"] == "a red zorble" and drawn["seed"] == 0
    assert (drawn["width"], drawn["height"]) == (256, 256) and drawn["steps"] > 0 and drawn["sampler"]
    assert main([*command, "--steps", "4"]) == 0
    longer = load_file(target)
    assert any(not torch.equal(first[key], longer[key]) for key in first)
    lines = (target.with_suffix(".training") / "training.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4]
    capsys.readouterr()
    assert main([*command, "--rate", "1"]) == 2
    assert "is another training (rate 0.0001 instead of 1.0)" in said(capsys)["error"]


@pytest.mark.parametrize(
    ("kind", "words"), [("controlnet", "train a ControlNet of a SANA"), ("model", "train all weights of a SANA")]
)
def test_the_plan_of_other_kinds(pictures, target, capsys, kind, words):
    assert main(["train", kind, "--data", str(pictures), "--out", str(target), "--device", "cpu", "--plan"]) == 0
    assert words in capsys.readouterr().out and list(target.parent.iterdir()) == []


def test_the_depth_of_a_controlnet_is_less_than_the_models(pictures, target, capsys):
    command = ["train", "controlnet", "--data", str(pictures), "--out", str(target), "--device", "cpu"]
    assert main([*command, "--depth", "6"]) == 2
    assert "a ControlNet of 6 blocks for a model of 6: give a depth of 1 to 5" in capsys.readouterr().err


def test_a_training_in_two_runs_is_as_one(pictures, tmp_path):
    whole, halves = tmp_path / "whole.safetensors", tmp_path / "halves.safetensors"
    command = ["train", "lora", "--data", str(pictures), *QUICK]
    assert main([*command, "--out", str(whole), "--steps", "3"]) == 0
    assert main([*command, "--out", str(halves), "--steps", "3", "--minutes", "0"]) == 0  # a step, then it is saved
    for _ in range(3):
        assert main([*command, "--out", str(halves), "--steps", "3"]) == 0
    found, wanted = load_file(halves), load_file(whole)
    assert found.keys() == wanted.keys() and all(torch.equal(found[key], wanted[key]) for key in wanted)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--batch", "3", "--at-once", "2"], "a batch has to be a multiple"),
        (["--rank", "0"], "rank 0 of a LoRA"),
        (["--rank", "225"], "rank 225 of a LoRA: transformer_blocks.0.attn1.to_q is 224 x 224, expected at most 224"),
        (["--rate", "-1"], "--rate is -1.0, expected more than 0"),
        (["--pixels", "100"], "--pixels is 100, expected a multiple of 32"),
        (["--caption-dropout", "2"], "--caption-dropout is 2.0, expected from 0 to 1"),
        (["--sample", "a"] * 65, "65 prompts of --sample: a sheet shows at most 64"),
        (["--prior-data", "x"], "--prior-data needs the prompt of the class"),
        (["--data", "absent"], "absent is missing"),
        (["--continue-from", "absent.safetensors"], "absent.safetensors"),
        (["--optimizer", "adamw8bit"], "adamw8bit"),
        (["--transformer", "x.safetensors", "--model", "nano"], "x.safetensors"),
    ],
)
def test_what_cannot_be_is_one_line(pictures, target, capsys, options, words):
    given = ["train", "lora", "--data", str(pictures), "--out", str(target), *QUICK, *options]
    assert main(given) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line and not target.exists()


def test_a_whole_model_is_drawn_with_the_other_networks_of_the_embedded_one(pictures, tmp_path):
    model, picture = tmp_path / "mine.safetensors", tmp_path / "p.png"
    command = ["train", "model", "--data", str(pictures), "--out", str(model), "--steps", "2", "--batch", "2"]
    assert main([*command, "--device", "cpu", "-q"]) == 0
    drawn = ["a red zorble", "-m", "nano", "--transformer", str(model), "-o", str(picture), "--steps", "1", "-q"]
    assert main([*drawn, "-s", "64", "--device", "cpu"]) == 0 and picture.exists()


def test_a_short_training_of_a_model_has_a_short_warm_up(pictures, tmp_path):
    model = tmp_path / "mine.safetensors"
    command = ["train", "model", "--data", str(pictures), "--out", str(model), "--steps", "3", "--batch", "2"]
    assert main([*command, "--rate", "1e-3", "--log-every", "1", "--device", "cpu", "-q"]) == 0
    lines = map(json.loads, (tmp_path / "mine.training" / "training.jsonl").read_text().splitlines())
    assert [line["rate_came"] for line in lines] == pytest.approx([1e-3] * 3)


def test_what_goes_on_says_where_it_stands(pictures, target, capsys):
    command = ["train", "lora", "--data", str(pictures), "--out", str(target), *QUICK[:-1]]
    assert main([*command, "--minutes", "0"]) == 0
    first = capsys.readouterr().err
    assert "captions are encoded" in first and "not finished: the same command goes on" in first
    assert main(command) == 0 and "goes on: it stands at step 1 of 2" in capsys.readouterr().err
    assert main(command) == 0 and "all steps are done already" in capsys.readouterr().err


def test_a_quantised_base_takes_a_lora_alone(pictures, tmp_path, capsys):
    base = tmp_path / "int8.safetensors"
    assert main(["quantize", str(NANO_FILES.transformer), str(base), "--format", "int8", "-q"]) == 0
    files = {"transformer": base, "autoencoder": NANO_FILES.autoencoder, "text-encoder": NANO_FILES.text_encoder}
    given = [part for name, path in files.items() for part in (f"--{name}", str(path))]
    target = tmp_path / "new.safetensors"
    command = ["--data", str(pictures), "--out", str(target), *given]
    assert main(["train", "lora", *command, *QUICK]) == 0 and target.exists()
    capsys.readouterr()
    for kind in ("controlnet", "model"):
        other = tmp_path / f"{kind}.safetensors"
        short = ["--data", str(pictures), "--out", str(other), *given, "--steps", "2", "--batch", "2", "-q"]
        assert main(["train", kind, *short, "--device", "cpu"]) == 2
        assert "only a LoRA can be trained on them" in capsys.readouterr().err and not other.exists()
