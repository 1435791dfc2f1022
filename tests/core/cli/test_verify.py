"""verify: agrees on tiny models and on the embedded one, and notices what is wrong."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import tiny_pipeline
import torch
from PIL import Image

from sana_core.cli import main
from sana_core.verify import measure, reference
from sana_core.verify.scrub import scrubbed, scrubber

pytest.importorskip("diffusers", reason="verify compares with diffusers")


@pytest.fixture(scope="module")
def tiny_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("someone's models")
    return [f"--{part.replace('_', '-')}={path}" for part, path in tiny_pipeline.write_files(folder).items()]


@pytest.fixture
def verified(tmp_path, capsys):
    """Runs the command: (exit code, the report as data, the report as text)."""

    def run(*options):
        report = tmp_path / "report.md"
        code = main(["verify", *options, "--report", str(report), "--quiet", "--json", "--overwrite"])
        return code, json.loads(capsys.readouterr().out), report.read_text("utf-8")

    return run


def verdicts(report):
    return {check["what"]: check["verdict"] for check in report["checks"]}


def test_tiny_models_agree(verified, tiny_files, tmp_path):
    code, report, text = verified(*tiny_files)
    assert code == 0 and set(verdicts(report).values()) == {"agrees"} and len(report["checks"]) >= 9
    compared = {check["against"] for check in report["checks"]}
    assert {"transformers' Gemma2Model", "diffusers' SanaTransformer2DModel", "diffusers' AutoencoderDC"} < compared
    assert "all that could be checked agrees" in text and "96x64, 3 steps" in text and "transformer.safetensors" in text
    assert Image.open(tmp_path / "report.png").size == (96, 64)


def test_a_report_names_no_person_and_no_folder(verified, tiny_files, monkeypatch):
    monkeypatch.setenv("USER", "someone")
    monkeypatch.setenv("LOGNAME", "someone")
    text = verified(*tiny_files)[2]
    assert "someone" not in text and "/tmp" not in text and "models/" not in text


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("/home/ann/my models/a.pth: no", "a.pth: no"),
        (r"C:\Users\ann\a.pth: no", "a.pth: no"),
        ("~/models/a.pth, 3 of 4", "a.pth, 3 of 4"),
        ("see https://example.com/a/b", "see https://example.com/a/b"),
    ],
)
def test_paths_are_taken_out_of_messages(text, clean):
    assert scrubbed(text) == clean


def test_folders_of_any_name_are_taken_out():
    file = Path("/srv/ann's, (new) models: 2/a.pth")
    clean = scrubber([file, Path("b.pth")])
    assert clean(f"{file}: no; {file.with_name('c.pth')} and b.pth") == "a.pth: no; c.pth and b.pth"


def test_a_report_is_lines_of_plain_text(verified, tiny_files):
    old = Path(tiny_files[1].partition("=")[2])
    new = old.with_name("\x1b[31m`two\nlines.safetensors")
    shutil.copy(old, new)
    text = verified(tiny_files[0], f"{tiny_files[1].partition('=')[0]}={new}", tiny_files[2])[2]
    assert "- `\\x1b[31m'two lines.safetensors`, " in text and "\x1b" not in text


def test_one_changed_weight_is_noticed(verified, tiny_files, monkeypatch):
    original = reference.transformer

    def changed(*args):
        network = original(*args)
        with torch.no_grad():
            network.transformer_blocks[0].attn1.to_q.weight[0] += 1.0
        return network

    monkeypatch.setattr(reference, "transformer", changed)
    code, report, text = verified(*tiny_files)
    wrong = [what for what, verdict in verdicts(report).items() if verdict == "DISAGREES"]
    assert code == 1 and "SOMETHING IS WRONG" in text
    assert wrong and all(what.startswith("transformer") for what in wrong)


def test_a_black_picture_is_noticed(verified, tiny_files, monkeypatch):
    original = measure.draw

    def black(*args):
        drawn = original(*args)
        drawn.picture.paste((0, 0, 0), (0, 0, *drawn.picture.size))
        return drawn

    monkeypatch.setattr(measure, "draw", black)
    code, _, text = verified(*tiny_files)
    assert code == 1 and "the picture is WRONG" in text and "black" in text


def test_without_diffusers_the_rest_goes_on(verified, tiny_files, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    monkeypatch.setitem(sys.modules, "diffusers.models.transformers.sana_transformer", None)
    monkeypatch.setitem(sys.modules, "diffusers.models.autoencoders.autoencoder_dc", None)
    code, report, text = verified(*tiny_files)
    assert code == 0 and "pip install -U diffusers" in text
    assert verdicts(report)["autoencoder, decode"] in ("agrees", "not checked")
    assert any(check["verdict"] == "not checked" for check in report["checks"])


def test_bad_files_end_before_anything_is_compared(tiny_files, tmp_path, capsys):
    (tmp_path / "a.safetensors").write_text("no")
    code = main(["verify", *tiny_files[1:], f"--transformer={tmp_path / 'a.safetensors'}", "--quiet"])
    assert code == 2 and capsys.readouterr().err.startswith("sana: error: ")


@pytest.mark.slow
def test_the_embedded_model_agrees(verified):
    code, report, _ = verified("--steps", "4")
    assert code == 0 and set(verdicts(report).values()) == {"agrees"}
