"""The commands `grow` and `prune`: options, what they say, how they end."""

import json

import pytest
import tiny_pipeline
from safetensors.torch import load_file

from sana_core.checkpoint.load import load_transformer
from sana_core.cli import main
from sana_core.sources import NANO

PICTURES = NANO / "pictures" / "zorble"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    paths = tiny_pipeline.write_files(tmp_path_factory.mktemp("tiny"), depth=4)
    return {part: str(path) for part, path in paths.items()}


@pytest.fixture
def target(tmp_path):
    return tmp_path / "new.safetensors"


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a red apple\n")
    return str(path)


def failed(capsys, *words):
    assert main([str(word) for word in words]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    return line


def test_grow(files, target, capsys):
    assert main(["grow", files["transformer"], str(target), "--depth", "9", "--inherit", "3"]) == 0
    assert "9 blocks, 3 of the old model and 6 new ones" in capsys.readouterr().out
    assert load_transformer(target).config.depth == 9
    options = ["--depth", "8", "--method", "block", "--overwrite", "--json"]
    assert main(["grow", files["transformer"], str(target), *options]) == 0
    assert json.loads(capsys.readouterr().out)["blocks"] == [0, 0, 1, 1, 2, 2, 3, 3]


def test_prune(files, target, prompts, capsys):
    options = ["--prompts", prompts, "--size", "64", "--steps", "1", "--text-encoder", files["text_encoder"]]
    words = ["prune", files["transformer"], str(target), "--depth", "3", "--device", "cpu", *options]
    assert main(words) == 0
    table = [line.split() for line in capsys.readouterr().out.splitlines()][1:5]
    assert [row[0] for row in table] == ["0", "1", "2", "3"]
    (gone,) = [int(row[0]) for row in table if row[2:] == ["left", "out"]]
    assert gone in (1, 2) and float(table[gone][1]) == min(float(row[1]) for row in table[1:3])
    assert "transformer_blocks.3.scale_shift_table" not in load_file(target)
    assert main([*words, "--overwrite", "--json", "--quiet"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["blocks"] == [index for index in range(4) if index != gone] and len(said["importance"]) == 4


def test_embedded_models_go_by_their_names(target, prompts, capsys):
    assert main(["grow", "nano-sprint", str(target), "--depth", "7", "--quiet"]) == 0
    grown = load_transformer(target).config
    assert grown.depth == 7 and grown.guidance_embed
    quick = ["--depth", "5", "--device", "cpu", "--quiet", "--overwrite"]
    given = [["--prompts", prompts, "--size", "64", "--steps", "1"], ["--data", str(PICTURES), "--samples", "1"]]
    for options in given:  # the text encoder and the DC-AE are known
        assert main(["prune", "nano", str(target), *quick, *options]) == 0
        assert load_transformer(target).config.depth == 5
    assert "sana-1.6b is the name of a released model: give its file" in failed(
        capsys, "grow", "sana-1.6b", target, "--depth", 9
    )
    assert "nan: there is no such file or folder" in failed(capsys, "grow", "nan", target, "--depth", 9, "--overwrite")


def test_a_lora_is_called_one(target, prompts, capsys):
    lora = next((NANO / "loras").glob("*.safetensors"))
    assert "found a LoRA: choose" in failed(capsys, "prune", lora, target, "--depth", 3, "--prompts", prompts)


def test_what_is_refused_before_anything_is_measured(files, target, prompts, capsys, monkeypatch):
    from sana_core.training import importance

    monkeypatch.setattr(importance, "calibration_pipeline", lambda *args: pytest.fail("nothing to measure"))
    prune = ("prune", files["transformer"], target, "--depth")
    text = ("--text-encoder", files["text_encoder"])
    assert "one of --prompts and --data" in failed(capsys, *prune, 3)
    assert "one of --prompts and --data" in failed(capsys, *prune, 3, "--prompts", prompts, "--data", ".")
    assert "--samples: only for --data" in failed(capsys, *prune, 3, "--prompts", prompts, "--samples", 3)
    assert "--size: only for --prompts" in failed(capsys, *prune, 3, "--data", ".", "--size", 64)
    assert "give 2 to 3" in failed(capsys, *prune, 4, "--prompts", prompts, *text)
    assert "needs a text encoder" in failed(capsys, *prune, 3, "--prompts", prompts)
    assert "expected a SANA transformer" in failed(capsys, "grow", files["autoencoder"], target, "--depth", 9)
    assert "--seed is -1" in failed(capsys, "grow", files["transformer"], target, "--depth", 9, "--seed", -1)
    assert "give 5 to" in failed(capsys, "grow", files["transformer"], target, "--depth", 4)
    assert not target.exists()
    target.write_bytes(b"somebody's")
    assert "is there already" in failed(capsys, *prune, 3, "--prompts", prompts, *text)
    assert target.read_bytes() == b"somebody's"
