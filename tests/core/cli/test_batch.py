"""The command `batch` on a whole tiny random SANA."""

import argparse
import io
import json
import sys
import tarfile

import pytest
import tiny_pipeline
import torch
from PIL import Image

from sana_core.cli import main
from sana_core.errors import InputError
from sana_core.pipeline import load_pipeline
from sana_core.seeds import derived_seed


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return tiny_pipeline.write_files(tmp_path_factory.mktemp("sana"))


@pytest.fixture
def model(files):
    options = [(f"--{part.replace('_', '-')}", str(path)) for part, path in files.items()]
    return [text for option in options for text in option] + ["--device", "cpu", "--quiet"]


QUICK = ["--size", "64x32", "--steps", "1", "--batch", "2", "--table", "none"]


def members(path):
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


def written(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    return str(path)


def test_text_file_to_a_tar(model, files, tmp_path, capsys):
    pytest.importorskip("pyarrow", reason="tables need it")
    prompts = written(tmp_path, "p.txt", "a cat\n\na dog\n")
    options = ["--size", "64x32", "--steps", "2", "--batch", "1", "--seed", "7", "--json"]
    assert main(["batch", prompts, str(tmp_path / "out"), *options, *model]) == 0
    assert (tmp_path / "out" / "00000.parquet").exists()
    said = json.loads(capsys.readouterr().out)
    assert (said["rows"], said["drawn"], said["failed"]) == (2, 2, 0)
    found = members(tmp_path / "out" / "00000.tar")
    assert sorted(found) == [f"{key}.{end}" for key in ("000001", "000003") for end in ("json", "png", "txt")]
    assert found["000003.txt"] == b"a dog"
    record = json.loads(found["000003.json"])
    assert record["id"] == "000003" and record["seed"] == derived_seed(7, "000003")
    expected = load_pipeline(files, device="cpu")("a dog", width=64, height=32, steps=2, seed=record["seed"])[0]
    with Image.open(io.BytesIO(found["000003.png"])) as picture:
        difference = abs(int(picture.getpixel((5, 5))[0]) - expected.getpixel((5, 5))[0])
        assert difference <= 1 and json.loads(picture.info["sana"]) == record


def test_plain_files_of_a_table_with_columns_of_other_names(model, tmp_path, capsys):
    table = "key,text,steps,file\n1,a cat,1,cats/0\n2,a dog,2,dogs/0\n"
    options = ["--plain", "--id-column", "key", "--prompt-column", "text", "--format", "webp", "--quality", "90"]
    assert main(["batch", written(tmp_path, "p.csv", table), str(tmp_path / "out"), *QUICK, *options, *model]) == 0
    assert capsys.readouterr() == ("", "")
    records = {path.parent.name: json.loads(path.read_text()) for path in (tmp_path / "out").glob("*/0.json")}
    assert {name: (record["id"], record["steps"]) for name, record in records.items()} == {
        "cats": ("1", 1),
        "dogs": ("2", 2),
    }
    with Image.open(tmp_path / "out" / "dogs" / "0.webp") as picture:
        assert picture.format == "WEBP" and picture.size == (64, 32)


def test_shards_and_a_plan(model, tmp_path, capsys, monkeypatch):
    prompts, out = written(tmp_path, "p.txt", "a\nb\nc\n"), tmp_path / "out"
    command = ["batch", prompts, str(out), *QUICK, "--rows-per-shard", "1", *model]
    assert main([*command, "--plan", "--json"]) == 0 and not out.exists()
    assert json.loads(capsys.readouterr().out) == {
        "folder": str(out),
        "shards": 3,
        "rows": 3,
        "finished": 0,
        "failed": 0,
    }
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "2")
    assert main([*command, "--shard", "auto"]) == 0
    assert [path.name for path in out.glob("*.tar")] == ["00001.tar"]
    assert main([*command, "--plan", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["finished"] == 1
    assert main([*command, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["drawn"], said["finished"]) == (2, 1) and len(list(out.glob("*.tar"))) == 3


def test_other_settings_are_named(model, tmp_path, capsys):
    command = ["batch", written(tmp_path, "p.txt", "a\n"), str(tmp_path / "out"), *QUICK, *model]
    assert main(command) == 0
    for option, said in (("--steps", "steps 1, this one has 2"), ("--seed", "seed 0, this one has 2")):
        assert main([*command, option, "2"]) == 2
        assert said in capsys.readouterr().err


def test_rows_that_fail(model, tmp_path, capsys):
    lines = [{"prompt": "a", "id": "x"}, {"prompt": "b", "id": "y", "image": str(tmp_path / "none.png")}]
    prompts = written(tmp_path, "p.jsonl", "\n".join(map(json.dumps, lines)))
    out = tmp_path / "out"
    assert main(["batch", prompts, str(out), *QUICK, *model[:-1]]) == 3
    said = capsys.readouterr().err
    assert "line 2: " in said and "1 rows drawn, 0 were there; 1 rows failed" in said
    assert main(["batch", prompts, str(out), *QUICK, *model[:-1]]) == 3
    assert "0 rows drawn, 1 were there; 1 rows failed" in capsys.readouterr().err
    Image.new("RGB", (64, 32)).save(tmp_path / "none.png")
    assert main(["batch", str(out / "failed-00000.jsonl"), str(tmp_path / "again"), *QUICK, *model]) == 0
    record = json.loads(members(tmp_path / "again" / "00000.tar")["y.json"])
    assert record["seed"] == derived_seed(0, "y") and record["image"] == "none.png"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--shard", "4/4"], "--shard is 4/4, expected I/N with I from 0 to N - 1"),
        (["--shard", "auto"], "and none is set: give --shard I/N"),
        (["--batch", "0"], "--batch is 0, expected at least 1"),
        (["--rows-per-shard", "0"], "rows per shard are 0, expected at least 1"),
        (["--quality", "50"], "quality is for webp and jpg"),
        (["--soft-edge", "thin"], "--control-image"),
        (["--prompt-column", "p"], "unknown column"),
    ],
)
def test_bad_options(model, tmp_path, capsys, monkeypatch, options, said):
    for name in ("SLURM_ARRAY_TASK_ID", "RANK"):
        monkeypatch.delenv(name, raising=False)
    prompts = written(tmp_path, "p.json", '[{"prompt": "a"}]')
    assert main(["batch", prompts, str(tmp_path / "out"), *QUICK, *model, *options]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_ray_that_is_not_installed(model, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    prompts = written(tmp_path, "p.txt", "a\n")
    assert main(["batch", prompts, str(tmp_path / "out"), *QUICK, *model, "--ray"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert 'pip install "ray[data]"' in line and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--ray-workers", "2"], "--ray-workers is about --ray"),
        (["--ray", "local", "--shard", "0/2"], "--ray shares the work itself"),
        (["--shield", "absent"], "there is no such file or folder: name that of ShieldGemma"),
        (["--best-of", "4"], "--best-of needs a --scorer"),
    ],
)
def test_options_that_do_not_go_together(model, tmp_path, capsys, options, words):
    assert main(["batch", written(tmp_path, "p.txt", "a"), str(tmp_path / "out"), *QUICK, *options, *model]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line and not (tmp_path / "out").exists()


def test_another_setting_is_named(model, tmp_path, capsys):
    command = ["batch", written(tmp_path, "p.txt", "a"), str(tmp_path / "out"), *QUICK, *model]
    assert main(command) == 0
    assert main([*command, "--guidance", "2"]) == 2
    assert "a batch with guidance_scale null, this one has 2.0" in capsys.readouterr().err


def test_two_processes(model, tmp_path, capsys):
    prompts = written(tmp_path, "p.txt", "a\nb\nc\n")
    for folder, more in (("one", []), ("two", ["--workers", "2"])):
        options = [*QUICK, "--rows-per-shard", "1", *model]
        assert main(["batch", prompts, str(tmp_path / folder), *options, "--json", *more]) == 0
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(item["drawn"], item["failed"]) for item in said] == [(3, 0), (3, 0)]
    for number in range(3):
        name = f"0000{number}.tar"
        assert members(tmp_path / "one" / name) == members(tmp_path / "two" / name)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--workers", "0"], "--workers is 0, expected at least 1"),
        (["--workers", "2", "--ray"], "with --ray give --ray-workers"),
    ],
)
def test_workers_that_cannot_be(model, tmp_path, capsys, options, said):
    prompts = written(tmp_path, "p.txt", "a\n")
    assert main(["batch", prompts, str(tmp_path / "out"), *options, *model]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_workers_share_the_gpus(monkeypatch):
    from sana_core.cli import rows

    monkeypatch.setattr(rows, "pick_device", lambda device: torch.device(device or "cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    rows.check_workers(2, None)
    with pytest.raises(InputError, match="--workers is 3, and there are 2 GPUs"):
        rows.check_workers(3, "cuda")
    with pytest.raises(InputError, match="--workers is 2, and --device cuda:1 can serve one"):
        rows.check_workers(2, "cuda:1")
    load = rows.Loading(argparse.Namespace(device=None, quiet=False), "nano")
    assert [(load.at(number).args.device, load.at(number).args.quiet) for number in (0, 1)] == [
        ("cuda:0", False),
        ("cuda:1", True),
    ]


def test_ray_does_not_take_the_prompts(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["batch", "--ray", "prompts.csv", str(tmp_path / "out")])
    assert "prompts.csv is no address of a Ray cluster: put --ray behind PROMPTS and OUT" in capsys.readouterr().err


def test_a_hint_is_told_once(model, tmp_path, capsys):
    prompts = written(tmp_path, "p.txt", "a\nb\nc\n")
    options = [*QUICK, "--size", "64x512", "--rows-per-shard", "1", *(word for word in model if word != "--quiet")]
    assert main(["batch", prompts, str(tmp_path / "out"), *options]) == 0
    assert capsys.readouterr().err.count("is far from the sizes this model was trained on") == 1
