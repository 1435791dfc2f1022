"""The command `quantize`: options, what it says, how it ends."""

import json
from pathlib import Path

import pytest
import tiny_pipeline
from safetensors.torch import load_file

from sana_core.checkpoint.weights import quantised_layers
from sana_core.cli import main


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return {part: str(path) for part, path in tiny_pipeline.write_files(tmp_path_factory.mktemp("tiny")).items()}


@pytest.fixture
def target(tmp_path):
    return tmp_path / "new.safetensors"


def test_a_file_its_summary_and_its_report(files, target, capsys):
    report = target.with_name("report.json")
    assert main(["quantize", files["transformer"], str(target), "--format", "int8", "--report", str(report)]) == 0
    out, err = capsys.readouterr()
    assert "20 layers to int8, the rest in bfloat16" in out and "ff.conv_point" in out and "worst" in out
    assert "\r" not in err
    assert len(quantised_layers(load_file(target))) == len(json.loads(report.read_text())["layers"]) == 20


def test_json_for_scripts(files, target, capsys):
    assert main(["quantize", files["transformer"], str(target), "--format", "int8", "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    said = json.loads(line)
    assert said["file"] == str(target) and len(said["layers"]) == 20
    assert main(["quantize", files["transformer"], str(target), "--format", "int8", "--json"]) == 2
    assert "is there already" in json.loads(capsys.readouterr().out)["error"]


def test_quiet(files, target, capsys):
    assert main(["quantize", files["transformer"], str(target), "--format", "int8", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_options_reach_the_file(files, target):
    options = ["--format", "int8", "--variant", "2k", "--trained-precision", "bfloat16", "--dtype", "float32"]
    assert main(["quantize", files["transformer"], str(target), *options, "--quiet"]) == 0
    assert str(load_file(target)["proj_out.weight"].dtype) == "torch.float32"
    assert main(["quantize", files["text_encoder"], str(target), "--format", "nvfp4", "--quiet"]) == 2
    options = ["--format", "nvfp4", "--embedding", "int8", "--overwrite", "--quiet"]
    assert main(["quantize", files["text_encoder"], str(target), *options]) == 0
    assert str(load_file(target)["model.embed_tokens.weight"].dtype) == "torch.int8"


@pytest.mark.parametrize("suffix", [".txt", ".json"])
def test_inputs_are_measured_over_prompts(files, target, tmp_path, suffix):
    prompts = tmp_path / f"prompts{suffix}"
    prompts.write_text("a red apple\n" if suffix == ".txt" else '[{"prompt": "a red apple", "steps": 2}]')
    measured = ["--prompts", str(prompts), "--device", "cpu", "--quiet"]
    options = ["--format", "fp8", "--text-encoder", files["text_encoder"], "--size", "64", "--steps", "1"]
    assert main(["quantize", files["transformer"], str(target), *options, *measured]) == 0
    assert sum(key.endswith(".input_scale") for key in load_file(target)) == 20
    options = ["--format", "nvfp4", "--overwrite"]
    assert main(["quantize", files["text_encoder"], str(target), *options, *measured]) == 0
    assert sum(key.endswith(".input_scale") for key in load_file(target)) == 21  # the embedding has no input


def refused(capsys, *words):
    assert main(["quantize", *map(str, words)]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("sana: error: ")
    return message


def test_what_is_refused_before_anything_is_measured(files, target, tmp_path, capsys, monkeypatch):
    from sana_core.quantiser import calibration

    monkeypatch.setattr(calibration, "largest_inputs", lambda *args, **options: pytest.fail("nothing to measure"))
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red apple")
    plain, fp8 = (files["transformer"], target), ("--format", "fp8")
    assert "stores no scale" in refused(capsys, *plain, "--format", "int8", "--prompts", prompts)
    assert "give them by --prompts" in refused(capsys, *plain, *fp8, "--size", "64")
    assert "there is no folder" in refused(capsys, *plain, *fp8, "--report", tmp_path / "no" / "r.json")
    assert "holds no prompt" in refused(capsys, *plain, *fp8, "--prompts", "/dev/null")
    target.write_bytes(b"before")
    assert "is there already" in refused(capsys, *plain, *fp8, "--prompts", prompts)
    other = (files["autoencoder"], tmp_path / "x")
    assert "expected a SANA transformer or a Gemma-2" in refused(capsys, *other, *fp8, "--prompts", prompts)
    assert target.read_bytes() == b"before" and not (tmp_path / "x").exists()


def test_options_that_mean_nothing_are_refused(files, target, tmp_path, capsys):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red apple")
    fp8, transformer, text = ("--format", "fp8"), (files["transformer"], target), (files["text_encoder"], target)
    assert "--device" in refused(capsys, *transformer, *fp8, "--device", "cpu")
    assert "--steps" in refused(capsys, *transformer, *fp8, "--steps", "0")
    assert "at least 1" in refused(capsys, *transformer, *fp8, "--prompts", prompts, "--steps", "0")
    assert "only for a text encoder" in refused(capsys, *transformer, *fp8, "--embedding", "int8")
    assert "--tokenizer" in refused(capsys, *transformer, *fp8, "--tokenizer", "x")
    assert "only for a transformer" in refused(capsys, *text, *fp8, "--variant", "2k")
    assert "--size" in refused(capsys, *text, *fp8, "--prompts", prompts, "--size", "64")
    assert not target.exists()


def test_ctrl_c_leaves_no_file(files, target, monkeypatch):
    from sana_core.quantiser import sinks

    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(sinks, "quantise", interrupted)
    assert main(["quantize", files["transformer"], str(target), "--format", "int8", "--quiet"]) == 130
    assert list(target.parent.iterdir()) == []


def test_a_format_is_needed_and_known(files, target, capsys):
    for words in ([], ["--format", "int3"]):
        with pytest.raises(SystemExit) as ended:
            main(["quantize", files["transformer"], str(target), *words])
        assert ended.value.code == 2 and "--format" in capsys.readouterr().err


def test_the_report_replaces_no_model(files, target, tmp_path, capsys):
    source = tmp_path / "source.safetensors"
    source.write_bytes(Path(files["transformer"]).read_bytes())
    other = tmp_path / "other.json"
    other.write_text("somebody's")
    before = {path: path.read_bytes() for path in (source, other)}
    for report in (source, target, other, tmp_path):
        options = [
            "--format",
            "int8",
            "--report",
            str(report),
            *(["--overwrite"] if report in (source, target) else []),
        ]
        assert main(["quantize", str(source), str(target), *options]) == 2, report
        assert str(report) in capsys.readouterr().err and not target.exists()
    assert {path: path.read_bytes() for path in before} == before


def test_a_format_that_fits_no_layer_is_warned_of_even_quietly(files, target, capsys):
    assert main(["quantize", files["transformer"], str(target), "--format", "w4a4", "--quiet"]) == 0
    assert "20 of 20 layers are not in w4a4" in capsys.readouterr().err
