"""The command line on a whole tiny random SANA."""

import json
import logging
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
import tiny_pipeline
import torch
from PIL import Image
from safetensors.torch import save_file

from sana_core.cli import main
from sana_core.pictures.soft_edge import soft_edge
from sana_core.pipeline import load_pipeline
from sana_core.transformer.controlnet import SanaControlNet

ROOT = Path(__file__).parents[3]


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
    code = main(
        [
            "a red apple",
            "-o",
            str(path),
            "--size",
            "64x32",
            "--steps",
            "2",
            "--seed",
            "5",
            "--negative",
            "blurry",
            *model,
        ]
    )
    said = capsys.readouterr()
    assert code == 0 and said.out == f"{path}\n"
    assert re.fullmatch(r"1/1: seed 5, 64x32, 2 steps, \d+\.\d s", said.err.splitlines()[-1]) and "\r" not in said.err
    expected = load_pipeline(files, device="cpu")("a red apple", "blurry", width=64, height=32, steps=2, seed=5)[0]
    with Image.open(path) as picture:
        assert picture.tobytes() == expected.tobytes()
        assert picture.info["parameters"].startswith(
            "a red apple\nNegative prompt: blurry\nSteps: 2, Sampler: flow_dpm, CFG scale: 3.0"
        )
    assert record(path) == {
        "prompt": "a red apple", "negative_prompt": "blurry", "seed": 5, "width": 64, "height": 32, "steps": 2,
        "guidance_scale": 3.0, "sampler": "flow_dpm", "shift": 2.0, "batch_size": 1, "batch_index": 0,
        "model": "transformer", "variant": None, "dtype": "float32", "instruction": "default",
        "autoencoder": "autoencoder.safetensors", "text_encoder": "text_encoder.safetensors",
    }  # fmt: skip


def test_quiet_batch_with_other_settings(model, files, tmp_path, capsys):
    options = "--width 32 --height 64 --batch 2 --guidance 1 --shift 4 --sampler flow_euler --instruction none"
    code = main(["a cat", "-o", str(tmp_path / "c.png"), *options.split(), "--dtype", "bfloat16", "--quiet", *model])
    assert code == 0 and capsys.readouterr() == ("", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c-0001.png", "c-0002.png"]
    found = record(tmp_path / "c-0002.png")
    names = ("guidance_scale", "shift", "sampler", "instruction", "dtype", "batch_index")
    assert [found[name] for name in names] == [1, 4, "flow_euler", "none", "bfloat16", 1]
    with Image.open(tmp_path / "c-0001.png") as first, Image.open(tmp_path / "c-0002.png") as second:
        assert first.size == (32, 64) and first.tobytes() != second.tobytes()


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "start.png"
    Image.radial_gradient("L").resize((100, 70)).convert("RGB").save(path)
    return path


def test_perturbed_attention_and_a_start_picture(model, files, picture, tmp_path):
    mask = tmp_path / "mask.png"
    Image.linear_gradient("L").resize((100, 70)).save(mask)
    options = f"--pag 2 --pag-layers 0,1 --image {picture} --strength 0.5 --mask {mask} --steps 4 --seed 5"
    assert main(["a cat", "-o", str(tmp_path / "a.png"), *options.split(), *model]) == 0
    given = {
        "pag_scale": 2.0,
        "pag_layers": [0, 1],
        "image": Image.open(picture),
        "strength": 0.5,
        "mask": Image.open(mask),
    }
    expected = load_pipeline(files, device="cpu")("a cat", steps=4, seed=5, **given)[0]
    with Image.open(tmp_path / "a.png") as drawn:
        assert drawn.size == (96, 64) and drawn.tobytes() == expected.tobytes()
    names = ("pag_scale", "pag_layers", "image", "strength", "mask")
    assert [record(tmp_path / "a.png")[name] for name in names] == [2.0, "0,1", picture.name, 0.5, mask.name]


def test_controlnet(model, files, picture, tmp_path):
    width = load_pipeline(files, device="cpu").transformer.config.caption_channels
    network = tiny.randomized(SanaControlNet(tiny.transformer_config(depth=1, caption_channels=width)), seed=3)
    save_file(network.state_dict(), tmp_path / "edges.safetensors")
    options = f"--controlnet {tmp_path / 'edges.safetensors'} --control-image {picture}"
    options += " --size 96x64 --steps 2 --seed 5 --quiet"
    for order, scale in (("upstream", 0.5), ("diffusers", 1.0)):
        path = tmp_path / f"{order}.png"
        extra = ["--control-order", order, "--control-scale", str(scale)]
        assert main(["a cat", "-o", str(path), *options.split(), *extra, *model]) == 0
        pipeline = load_pipeline(files, device="cpu", controlnet=tmp_path / "edges.safetensors", control_order=order)
        expected = pipeline(
            "a cat", width=96, height=64, steps=2, seed=5, control_image=Image.open(picture), control_scale=scale
        )[0]
        with Image.open(path) as drawn:
            assert drawn.tobytes() == expected.tobytes()
        found = record(path)
        assert (found["controlnet"], found["control_order"], found["control_scale"]) == (
            "edges.safetensors",
            order,
            scale,
        )
    with Image.open(tmp_path / "upstream.png") as first, Image.open(tmp_path / "diffusers.png") as second:
        assert first.tobytes() != second.tobytes()
    drawn = []
    for kind in ("soft", "thin"):  # prepared edges are the control picture, and another for each kind
        assert (
            main(
                [
                    "a cat",
                    "-o",
                    str(tmp_path / "edge.png"),
                    *options.split(),
                    "--soft-edge",
                    kind,
                    "--overwrite",
                    *model,
                ]
            )
            == 0
        )
        edges = torch.from_numpy(np.array(Image.open(picture).convert("L")))[None, None] / 255.0
        pipeline = load_pipeline(files, device="cpu", controlnet=tmp_path / "edges.safetensors")
        expected = pipeline(
            "a cat", width=96, height=64, steps=2, seed=5, control_image=soft_edge(edges, thin=kind == "thin")
        )[0]
        with Image.open(tmp_path / "edge.png") as found:
            drawn.append(found.tobytes())
        assert drawn[-1] == expected.tobytes() and record(tmp_path / "edge.png")["soft_edge"] == kind
    assert drawn[0] != drawn[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, files):
    """The same networks in a diffusers pipeline folder, with a ControlNet."""
    folder = tmp_path_factory.mktemp("pipelines") / "with-control"
    for part, path in files.items():
        (folder / {"autoencoder": "vae"}.get(part, part)).mkdir(parents=True)
        shutil.copy(path, folder / {"autoencoder": "vae"}.get(part, part) / "model.safetensors")
    (folder / "model_index.json").write_text("{}")
    (folder / "controlnet").mkdir()
    width = load_pipeline(files, device="cpu").transformer.config.caption_channels
    network = tiny.randomized(SanaControlNet(tiny.transformer_config(depth=1, caption_channels=width)), seed=3)
    save_file(network.state_dict(), folder / "controlnet" / "model.safetensors")
    return folder


def test_the_record_has_what_changes_the_picture(model, folder, tmp_path):
    shared = "--size 32 --steps 1 --seed 5 --quiet --trained-precision float16 --negative-mask positive"
    assert main(["a cat", "-o", str(tmp_path / "files.png"), *shared.split(), *model]) == 0
    options = [*shared.split(), "--control-order", "diffusers", "--pipeline", str(folder), "--device", "cpu"]
    assert main(["a cat", "-o", str(tmp_path / "folder.png"), *options]) == 0
    files, pipeline = record(tmp_path / "files.png"), record(tmp_path / "folder.png")
    for found in (files, pipeline):
        assert (found["trained_precision"], found["negative_mask"]) == ("float16", "positive")
    assert not {"controlnet", "control_order"} & set(files) and not {"autoencoder", "text_encoder"} & set(pipeline)
    assert (files["autoencoder"], files["text_encoder"]) == ("autoencoder.safetensors", "text_encoder.safetensors")
    assert (pipeline["controlnet"], pipeline["control_order"]) == ("with-control/controlnet", "diffusers")


def test_what_was_decided_about_a_file_is_told(model, files, tmp_path, capsys):
    log = logging.getLogger("sana")
    before = (log.level, list(log.handlers))
    options = ["a cat", "-o", str(tmp_path / "a.png"), "--size", "32", "--steps", "1", *model]
    for _ in range(2):  # nothing is left over from the first time
        assert main(options) == 0
        lines = capsys.readouterr().err.splitlines()
        assert len([line for line in lines if line.startswith(f"sana: {files['transformer']}: ")]) == 1
    assert main([*options, "--dtype", "float16", "--trained-precision", "bfloat16", "--quiet"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f"sana: {files['transformer']}: this SANA model was trained in bfloat16 but was made to compute in float16"
    )
    assert (log.level, log.handlers) == before


def test_sprint(tmp_path):
    files = tiny_pipeline.write_files(tmp_path, {"width": 64, "height": 64}, qk_norm=True, guidance_embed=True)
    options = [text for part, path in files.items() for text in (f"--{part.replace('_', '-')}", str(path))]
    assert main(["a cat", "-o", str(tmp_path / "s.png"), "--seed", "1", "--device", "cpu", *options]) == 0
    found = record(tmp_path / "s.png")
    assert (found["sampler"], found["steps"], found["guidance_scale"]) == ("scm", 2, 4.5)


def test_the_recorded_seed_draws_the_picture_again(model, tmp_path):
    assert main(["a cat", "-o", str(tmp_path / "a.png"), "--quiet", *model]) == 0
    assert (
        main(
            [
                "a cat",
                "-o",
                str(tmp_path / "b.png"),
                "--quiet",
                "--seed",
                str(record(tmp_path / "a.png")["seed"]),
                *model,
            ]
        )
        == 0
    )
    with Image.open(tmp_path / "a.png") as first, Image.open(tmp_path / "b.png") as second:
        assert first.tobytes() == second.tobytes()


def test_prompt_file(model, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    own = {
        "prompt": "own",
        "seed": 9,
        "width": 96,
        "negative_prompt": "n",
        "sampler": "flow_euler",
        "pag_scale": 2,
        "pag_layers": "1",
    }
    prompts.write_text(f'"plain"\n{json.dumps(own)}\n')
    options = "--size 32 --steps 1 --seed 2 --quiet"
    assert main(["--prompt-file", str(prompts), "-o", str(tmp_path / "p.png"), *options.split(), *model]) == 0
    names = ("prompt", "negative_prompt", "seed", "width", "height", "sampler")
    first, second = ([record(tmp_path / f"p-000{number}.png")[name] for name in names] for number in (1, 2))
    assert first == ["plain", "", 2, 32, 32, "flow_dpm"]
    assert second == ["own", "n", 9, 96, 32, "flow_euler"]
    assert "pag_scale" not in record(tmp_path / "p-0001.png") and record(tmp_path / "p-0002.png")["pag_scale"] == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "give a prompt, or --prompt-file"),
        (["x", "--prompt-file", "p.txt"], "not both"),
        (["--prompt-file", "none.txt"], "none.txt cannot be read (No such file or directory)"),
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
        (["x", "--sampler", "scm"], "choose flow_dpm with 14 to 20 steps"),
        (["x", "--pag-layers", "all"], '"all" does not name blocks of the model'),
        (["x", "--pag", "2", "--pag-layers", "5"], "this model has the blocks 0 to 1"),
        (["x", "--image", "none.png"], "none.png is not a picture that can be read"),
        (["x", "--strength", "0.5"], "give the picture, too"),
        (["x", "--image", __file__], "is not a picture that can be read"),
        (["x", "--controlnet", "none.pth"], "--control-image"),
        (["x", "--device", "gpu"], "is not a device"),
        (["x", "--device", "cuda:99"], "CUDA GPUs here"),
        (["x", "--pipeline", "none"], "either --pipeline or the single model files"),
        (["x", "--pipeline", "none", "--model", "sana-1.6b"], "either --pipeline"),
        (["x", "-o", "a.gif"], "expected one of .png, .jpg, .jpeg, .webp"),
        (["x", "-o", "a.png", "--quality", "90"], "--quality is for JPEG and WebP"),
        (["x", "-o", "a.jpg", "--quality", "0"], "expected a whole number from 1 to 100"),
        (["x", "-p", "y"], "give the prompt once"),
        (["x", "-i", "--prompt-file", "p.txt"], "--interactive takes no --prompt-file"),
        (["x", "--yes"], "--yes and --models-dir are about the files of a --model"),
        (["x", "--model", "sana-9b"], "there is no model"),
        (["x", "-o", "folder.png", "--transformer", "none"], "folder.png cannot be written (Is a directory)"),
        (["x", "-o", "/proc/x.png", "--transformer", "none"], "/proc/x.png cannot be written"),
        (["x", "-o", f"{__file__}/x.png", "--transformer", "none"], "x.png cannot be written (Not a directory)"),
        (["x", "-o", "new/x.png", "--transformer", "none"], "none"),
        (["caf\udcff"], "the prompt is not valid Unicode text"),
        (["x", "--negative", "caf\udcff", "--guidance", "1"], "the negative prompt is not valid Unicode text"),
        (["x", "--instruction", "caf\udcff"], "not valid Unicode text"),
        (["x", "--guidance", "nan"], "'nan' is not a finite number"),
        (["x", "--control-scale", "inf"], "'inf' is not a finite number"),
        (["x", "--pag", "much"], "'much' is not a finite number"),
        (["x", "--lora", "x.safetensors:nan"], "'nan' is not a finite number"),
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
    assert [path.name for path in tmp_path.rglob("*")] == ["folder.png"]
    capsys.readouterr()
    try:
        code = main([*model, *options, "--json"])
    except SystemExit as stop:
        code = stop.code
    out = capsys.readouterr().out
    assert code == 2 and said in json.loads(out)["error"] and out.count("\n") == 1


def test_an_error_in_the_file_comes_before_the_first_picture(model, tmp_path, capsys):
    prompts = tmp_path / "p.jsonl"
    for wrong in (
        {"sampler": "euler"},
        {"width": 33},
        {"steps": 0},
        {"image": "none.png"},
        {"strength": 1},
        {"pag_layers": "a"},
    ):
        prompts.write_text(f'"a"\n{json.dumps({"prompt": "b", **wrong})}\n')
        assert main(["--prompt-file", str(prompts), "-o", str(tmp_path / "p.png"), "--quiet", *model]) == 2
        assert capsys.readouterr().err.count("\n") == 1 and not list(tmp_path.glob("*.png"))


def run(*options):
    return subprocess.run([sys.executable, "-m", "sana_core", *options], cwd=ROOT, capture_output=True, text=True)


def test_as_a_program(tmp_path):
    (tmp_path / "empty.txt").touch()
    failed = run("--prompt-file", str(tmp_path / "empty.txt"))
    assert (
        (failed.returncode, failed.stdout) == (2, "")
        and failed.stderr.startswith("sana: error: ")
        and failed.stderr.count("\n") == 1
    )
    helped = run("--help")
    assert helped.returncode == 0 and "--prompt-file" in helped.stdout and not helped.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="other systems take no such bytes")
def test_a_prompt_that_is_not_utf8():
    command = [sys.executable.encode(), b"-m", b"sana_core", b"caf\xff"]
    failed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (failed.returncode, failed.stdout) == (2, "") and failed.stderr.count("\n") == 1
    assert failed.stderr.startswith("sana: error: the prompt is not valid Unicode text, found '\\udcff' at position 3")


def test_import_is_light():
    """Neither the package nor its help loads transformers."""
    heavy = {"transformers", "sentencepiece", "tokenizers", "diffusers"}
    code = f"import sys, sana_core.cli; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout == "[]\n"
