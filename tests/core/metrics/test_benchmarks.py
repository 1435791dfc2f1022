"""The layouts of GenEval, DPG-Bench and MJHQ-30K, against lines of their published lists."""

import json
import re

import pytest
from PIL import Image

from sana_core.cli.main import main
from sana_core.errors import InputError
from sana_core.metrics.benchmarks import BENCHMARKS, EACH, read_geneval
from sana_core.metrics.pictures import find_pictures, first_caption
from sana_core.seeds import derived_seed

from .conftest import picture

# lines 1 and 100 of prompts/evaluation_metadata.jsonl, github.com/djghosh13/geneval
GENEVAL = """\
{"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"}
{"tag": "two_object", "include": [{"class": "toilet", "count": 1}, {"class": "computer mouse", "count": 1}], \
"prompt": "a photo of a toilet and a computer mouse"}
"""
DPG = ("0", "COCOval2014000000010363")  # names in dpg_bench/prompts, github.com/TencentQQGYLab/ELLA
# in the form of meta_data.json, not from it
MJHQ = {"0a1b": {"category": "animals", "prompt": "a cat"}, "ff02": {"category": "people", "prompt": "a man"}}


@pytest.fixture
def lists(tmp_path):
    (tmp_path / "geneval.jsonl").write_text(GENEVAL)
    (tmp_path / "dpg").mkdir()
    for name in DPG:
        (tmp_path / "dpg" / f"{name}.txt").write_text(f"An expansive field, {name}")
    (tmp_path / "mjhq.json").write_text(json.dumps(MJHQ))
    return {"geneval": tmp_path / "geneval.jsonl", "dpg": tmp_path / "dpg", "mjhq": tmp_path / "mjhq.json"}


def draw(benchmark, prompts, out):
    for number, row in enumerate(benchmark.rows(prompts)):
        picture(out / f"{row.file}{benchmark.ending}", number)


def test_published_counts():
    counts = {name: benchmark.count for name, benchmark in BENCHMARKS.items()}
    assert counts == {"geneval": 553, "dpg": 1065, "mjhq": 30_000}


def test_geneval(lists, tmp_path):
    """As its README shows the folder; its tool reads each metadata.jsonl with json.load, and samples/N.png."""
    benchmark, out = BENCHMARKS["geneval"], tmp_path / "out"
    draw(benchmark, lists["geneval"], out)
    assert benchmark.missing(lists["geneval"], out) == ["00000/metadata.jsonl", "00001/metadata.jsonl"]
    assert benchmark.write_companions(lists["geneval"], out) == 2
    assert benchmark.missing(lists["geneval"], out) == []
    assert sorted(path.name for path in out.iterdir()) == ["00000", "00001"]
    for number, line in enumerate(GENEVAL.splitlines()):
        folder = out / f"{number:05}"
        assert json.loads((folder / "metadata.jsonl").read_text()) == json.loads(line)
        names = sorted(path.name for path in (folder / "samples").iterdir())
        assert names == ["0000.png", "0001.png", "0002.png", "0003.png"]
        assert all(re.match(r"\d+\.png", name) for name in names)


def test_dpg(lists, tmp_path):
    """Its tool crops four squares of --resolution out of each grid, and takes the name up to the first dot as id."""
    benchmark, out = BENCHMARKS["dpg"], tmp_path / "out"
    draw(benchmark, lists["dpg"], out)
    assert benchmark.write_companions(lists["dpg"], out) == 2
    assert benchmark.missing(lists["dpg"], out) == []
    assert sorted(path.name.split(".")[0] for path in (out / "grids").iterdir()) == sorted(DPG)
    grid = Image.open(out / "grids" / "0.png")
    for number, corner in enumerate([(0, 0), (40, 0), (0, 40), (40, 40)]):
        crop = grid.crop((*corner, corner[0] + 40, corner[1] + 40))
        assert crop.tobytes() == Image.open(out / "pictures" / "0" / f"{number}.png").tobytes()


def test_a_grid_needs_equal_squares(lists, tmp_path):
    benchmark, out = BENCHMARKS["dpg"], tmp_path / "out"
    draw(benchmark, lists["dpg"], out)
    picture(out / "pictures" / "0" / "2.png", 1, size=(40, 48))
    with pytest.raises(InputError, match="squares of one size"):
        benchmark.write_companions(lists["dpg"], out)
    assert not list((out / "grids").glob("*"))


def test_mjhq(lists, tmp_path):
    """Upstream's compute_fid.py reads EXPERIMENT/ID.jpg for each id of meta_data.json."""
    benchmark, out = BENCHMARKS["mjhq"], tmp_path / "out"
    assert [(row.id, row.prompt, row.file) for row in benchmark.rows(lists["mjhq"])] == [
        ("0a1b", "a cat", "0a1b"),
        ("ff02", "a man", "ff02"),
    ]
    draw(benchmark, lists["mjhq"], out)
    (out / "ff02.jpg").unlink()
    assert benchmark.missing(lists["mjhq"], out) == ["ff02.jpg"]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_ids_and_files_are_unique(name, lists):
    rows = BENCHMARKS[name].rows(lists[name])
    assert len({row.id for row in rows}) == len({row.file for row in rows}) == len(rows)


QUICK = ["-s", "64", "--steps", "1", "--device", "cpu", "--batch", "4", "--seed", "7"]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_command(name, lists, tmp_path, capsys):
    """Draws with the embedded model, and writes all that the benchmark's tool reads."""
    out = tmp_path / "out"
    line = ["benchmark", name, str(lists[name]), str(out)]
    assert main([*line, "--plan", *QUICK]) == 0 and not out.exists()
    assert main([*line, "--best-of", "2", "--keep", "2", "--scorer", "clip:x"]) == 2
    assert "leave out --keep" in capsys.readouterr().err
    assert main([*line, "--check"]) == 2 and "is no folder" in capsys.readouterr().err
    assert main([*line, *QUICK]) == 0
    said = capsys.readouterr()
    assert f"{BENCHMARKS[name].title} is complete" in said.out and f"has {BENCHMARKS[name].count} prompts" in said.err
    assert main([*line, "--check", "-q"]) == 0 and capsys.readouterr().out == ""


def test_grids_are_of_squares(lists, tmp_path, capsys):
    line = ["benchmark", "dpg", str(lists["dpg"]), str(tmp_path / "out"), *QUICK, "-s", "64x32"]
    assert main(line) == 2 and "takes squares, not 64 x 32" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_command_goes_on_and_tells_what_is_missing(lists, tmp_path, capsys):
    out = tmp_path / "out"
    line = ["benchmark", "geneval", str(lists["geneval"]), str(out)]
    assert main([*line, *QUICK, "-q"]) == 0
    record = json.loads((out / "00000" / "samples" / "0000.json").read_text())
    assert record["prompt"] == "a photo of a bench" and record["seed"] == derived_seed(7, "00000-0")
    picture = out / "00001" / "samples" / "0003.png"
    before = picture.read_bytes()
    picture.unlink()
    assert main([*line, "--check"]) == 1
    assert "1 files are missing: 00001/samples/0003.png" in capsys.readouterr().out
    assert main([*line, *QUICK, "-q"]) == 0 and picture.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("mjhq", "[]", "JSON list"),
        ("mjhq", '{"../x": {"prompt": "a"}}', "is no id"),
        ("mjhq", '{"x": {"prompt": 3}}', "a prompt that is a text"),
        ("mjhq", '{"x": 3}', "a prompt that is a text"),
        ("mjhq", "{}", "has no prompts"),
        ("mjhq", "{", "not readable JSON"),
        ("geneval", '{"prompt": "x"}', "line 1: expected an object with tag"),
        ("geneval", "\n", "has no prompts"),
        ("dpg", "", "is no folder"),
    ],
)
def test_lists_that_are_none(name, content, said, tmp_path):
    path = tmp_path / "list"
    path.write_text(content)
    with pytest.raises(InputError, match=said):
        BENCHMARKS[name].rows(path)


def test_pictures_of_geneval_can_be_measured(lists, tmp_path):
    """Its metadata.jsonl is no table of pictures as Hugging Face has, and hides none."""
    out = tmp_path / "out"
    assert main(["benchmark", "geneval", str(lists["geneval"]), str(out), *QUICK, "-q"]) == 0
    found = find_pictures(out)
    assert len(found.found) == EACH * len(read_geneval(lists["geneval"])) and not found.skipped
    assert first_caption(found.found[0]) == "a photo of a bench"
