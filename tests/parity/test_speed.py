"""The speed benchmark runs, and says what it must. Its numbers are nobody's business here."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from bench import chart, speed, variants
from bench.cases import reference
from bench.paired import CONTROL, difference
from bench.plans import SMOKE, TINY
from sana_core.transformer.model import SanaTransformer

CPU = torch.device("cpu")


@pytest.mark.slow
def test_the_smoke_run(tmp_path, capsys):
    results, plot = tmp_path / "speed.json", tmp_path / "speed.png"
    assert speed.main(["cpu", "--smoke", "--json", str(results), "--plot", str(plot)]) == 0
    said, found = capsys.readouterr().out, json.loads(results.read_text())
    assert said.startswith("SMOKE TEST") and "FAILED" not in said and "TOO FAR" not in said
    assert {row["section"] for row in found["rows"]} == {"1.6B", "Sprint", "loop", "decode", "Gemma", "end to end"}
    assert not any(row["verdict"] for row in found["rows"])
    assert sum(row["ratio"]["variant"] == CONTROL for row in found["rows"]) == found_cases(found)
    assert Image.open(plot).width > 500


def found_cases(found):
    return len({(row["section"], row["case"]) for row in found["rows"]})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_the_benchmark_says_so(capsys):
    assert speed.main(["cuda"]) == 2
    assert "finds no CUDA GPU here" in capsys.readouterr().err


def test_an_unknown_section_is_named():
    with pytest.raises(SystemExit, match="no section 7B; choose of "):
        speed.main(["cpu", "--smoke", "--section", "7B"])


@torch.inference_mode()
def test_the_ways_on_a_gpu_agree(monkeypatch):
    """But for those that need one: graphs run what they would capture, nothing is compiled."""
    monkeypatch.setattr(variants, "graphed", lambda run: run)
    monkeypatch.setattr(variants, "compiled", variants.twin)
    monkeypatch.setattr(SanaTransformer, "compile_blocks", lambda network, **options: None)
    step = variants.make_step(TINY, 256, 20, CPU, torch.float32)
    ways = variants.cuda_steps(reference(SMOKE, TINY, 256, torch.float32), step)
    assert len(ways) == 8 and next(iter(ways)) == "diffusers"
    results = [run() for run in ways.values()]
    assert all(difference(result, results[0]) < 1e-5 for result in results)


@torch.inference_mode()
@pytest.mark.parametrize("truncate", [False, True])
def test_the_loops_agree(truncate):
    step = variants.make_step(TINY, 256, 20, CPU, torch.float32)
    theirs = reference(SMOKE, TINY, 256, torch.float32)
    sigmas = [1.0, 0.7, 0.25, 0.0]  # whole timesteps
    expected = variants.diffusers_loop(theirs, step, sigmas, truncate)()
    assert difference(variants.own_loop(variants.transformer_like(theirs, TINY), step, sigmas)(), expected) < 1e-4


def test_a_chart_has_a_bar_for_each_variant_but_the_reference(tmp_path):
    def row(variant, median):
        ratio = {"variant": variant, "median": median, "p10": median - 0.1, "p90": median + 0.1}
        return {"section": "1.6B", "case": "a step", "ratio": ratio, "verdict": "faster" * (median > 1.2)}

    rows = [row("diffusers", 1.0), row(CONTROL, 1.0), row("sana_core", 1.5)]
    assert [label for label, found in chart.labelled(rows) if found] == ["diffusers again (the noise)", "sana_core"]
    chart.draw(rows, "a machine", tmp_path / "chart.png")
    green = chart.COLOURS["faster"]
    assert green in {colour for _, colour in Image.open(tmp_path / "chart.png").convert("RGB").getcolors(1 << 16)}
