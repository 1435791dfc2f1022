"""The command line on a whole tiny random SANA."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_pipeline
from PIL import Image

from sana_core.cli import main
from sana_core.pipeline import load_pipeline

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return tiny_pipeline.write_files(tmp_path_factory.mktemp("sana"))


@pytest.fixture
def model(files):
    options = [(f"--{part.replace('_', '-')}", str(path)) for part, path in files.items()]
    return [text for option in options for text in option] + ["--device", "cpu"]


def record(path):
    with Image.open(path) as picture:
        return json.loads(picture.info["sana"])


def test_one_picture(model, files, tmp_path, capsys):
    path = tmp_path / "new folder" / "apple.png"
    code = main(["a red apple", "-o", str(path), "--size", "64x32", "--steps", "2", "--seed", "5", "--negative", "blurry", *model])
    said = capsys.readouterr()
    assert code == 0 and said.out == f"{path}\n" and said.err.endswith("2/2\n")
    expected = load_pipeline(files, device="cpu")("a red apple", "blurry", width=64, height=32, steps=2, seed=5)[0]
    with Image.open(path) as picture:
        assert picture.tobytes() == expected.tobytes()
        assert picture.info["parameters"].startswith("a red apple\nNegative prompt: blurry\nSteps: 2, Sampler: flow_dpm, CFG scale: 3.0")
    assert record(path) == {
        "prompt": "a red apple", "negative_prompt": "blurry", "seed": 5, "width": 64, "height": 32, "steps": 2, "guidance_scale": 3.0,
        "sampler": "flow_dpm", "shift": 2.0, "batch_size": 1, "batch_index": 0, "model": "transformer", "variant": None, "dtype": "float32",
        "instruction": "default",
    }  # fmt: skip


def test_quiet_batch_with_other_settings(model, files, tmp_path, capsys):
    options = "--width 32 --height 64 --batch 2 --guidance 1 --shift 4 --sampler flow_euler --instruction none --dtype bfloat16 --quiet"
    code = main(["a cat", "-o", str(tmp_path / "c.png"), *options.split(), *model])
    assert code == 0 and capsys.readouterr() == ("", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c-0001.png", "c-0002.png"]
    found = record(tmp_path / "c-0002.png")
    names = ("guidance_scale", "shift", "sampler", "instruction", "dtype", "batch_index")
    assert [found[name] for name in names] == [1, 4, "flow_euler", "none", "bfloat16", 1]
    with Image.open(tmp_path / "c-0001.png") as first, Image.open(tmp_path / "c-0002.png") as second:
        assert first.size == (32, 64) and first.tobytes() != second.tobytes()


def test_the_recorded_seed_draws_the_picture_again(model, tmp_path):
    assert main(["a cat", "-o", str(tmp_path / "a.png"), "--quiet", *model]) == 0
    assert main(["a cat", "-o", str(tmp_path / "b.png"), "--quiet", "--seed", str(record(tmp_path / "a.png")["seed"]), *model]) == 0
    with Image.open(tmp_path / "a.png") as first, Image.open(tmp_path / "b.png") as second:
        assert first.tobytes() == second.tobytes()


def test_prompt_file(model, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('"plain"\n{"prompt": "own", "seed": 9, "width": 96, "negative_prompt": "n", "sampler": "flow_euler"}\n')
    options = "--size 32 --steps 1 --seed 2 --quiet"
    assert main(["--prompt-file", str(prompts), "-o", str(tmp_path / "p.png"), *options.split(), *model]) == 0
    names = ("prompt", "negative_prompt", "seed", "width", "height", "sampler")
    first, second = ([record(tmp_path / f"p-000{number}.png")[name] for name in names] for number in (1, 2))
    assert first == ["plain", "", 2, 32, 32, "flow_dpm"]
    assert second == ["own", "n", 9, 96, 32, "flow_euler"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "either a prompt or --prompt-file"),
        (["x", "--prompt-file", "p.txt"], "either a prompt or --prompt-file"),
        (["--prompt-file", "none.txt"], "none.txt cannot be read"),
        (["x", "--width", "100"], "96 or 128"),
        (["x", "--size", "0"], "multiple of 32"),
        (["x", "--width", "-32"], "multiple of 32"),
        (["x", "--size", "axb"], "is not a size"),
        (["x", "--width", "wide"], "invalid int value"),
        (["x", "--batch", "0"], "--batch is 0"),
        (["x", "--steps", "0"], "at least one step"),
        (["x", "--shift", "-1"], "shift"),
        (["x", "--seed", str(2**70)], "seed"),
        (["x", "--sampler", "euler"], "invalid choice"),
        (["x", "--device", "gpu"], "is not a device"),
        (["x", "--device", "cuda:99"], "CUDA GPUs here"),
        (["x", "--pipeline", "none"], "either --pipeline or the single model files"),
        (["x", "-o", "a.jpg"], "name a .png file"),
        (["x", "-o", "folder.png"], "folder.png"),
        (["x", "--tokenizer", "none.model"], "none.model"),
        (["x", "--what"], "unrecognized arguments"),
    ],
    ids=str,
)
def test_every_error_is_one_line(model, tmp_path, monkeypatch, capsys, options, said):
    monkeypatch.chdir(tmp_path)
    Path("folder.png").mkdir()
    try:
        code = main([*model, *options, "--quiet"])
    except SystemExit as stop:  # argparse's own way out
        code = stop.code
    error = capsys.readouterr().err
    assert code == 2 and said in error and error.startswith("sana: error: ") and error.count("\n") == 1
    assert not list(tmp_path.glob("*.png/*")) and not Path("sana.png").exists()


def test_an_error_in_the_file_comes_before_the_first_picture(model, tmp_path, capsys):
    prompts = tmp_path / "p.jsonl"
    for line in ('{"prompt": "b", "sampler": "euler"}', '{"prompt": "b", "width": 33}', '{"prompt": "b", "steps": 0}'):
        prompts.write_text(f'"a"\n{line}\n')
        assert main(["--prompt-file", str(prompts), "-o", str(tmp_path / "p.png"), *model]) == 2
        assert capsys.readouterr().err.count("\n") == 1 and not list(tmp_path.glob("*.png"))


def run(*options):
    return subprocess.run([sys.executable, "-m", "sana_core", *options], cwd=ROOT, capture_output=True, text=True)


def test_as_a_program(tmp_path):
    (tmp_path / "empty.txt").touch()
    failed = run("--prompt-file", str(tmp_path / "empty.txt"))
    assert (failed.returncode, failed.stdout) == (2, "") and failed.stderr.startswith("sana: error: ") and failed.stderr.count("\n") == 1
    helped = run("--help")
    assert helped.returncode == 0 and "--prompt-file" in helped.stdout and not helped.stderr


def test_import_is_light():
    """Neither the package nor its help loads transformers."""
    code = "import sys, sana_core.cli; print(sorted({'transformers', 'sentencepiece', 'tokenizers', 'diffusers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout == "[]\n"
