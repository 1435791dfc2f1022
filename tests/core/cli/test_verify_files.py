"""verify with a whole diffusers folder, with quantised weights, and with files that do not belong together."""

import json
import shutil
from pathlib import Path

import pytest
import tiny_pipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sana_core.cli import main
from sana_core.presets import COUNTED, COUNTED_TEXT_ENCODER, RELEASES, TEXT_ENCODER, network_name
from sana_core.quantised import kitchen
from sana_core.sources import NANO_FILES
from sana_core.verify import reference, trajectory

pytest.importorskip("diffusers", reason="verify compares with diffusers")
FOLDERS = {"transformer": "transformer", "autoencoder": "vae", "text_encoder": "text_encoder"}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return tiny_pipeline.write_files(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def verified(tmp_path, capsys):
    """Runs the command: (exit code, the report as data)."""

    def run(*options):
        report = ["--report", str(tmp_path / "report.md"), "--steps", "1", "--quiet", "--json"]
        code = main(["verify", *map(str, options), *report])
        return code, json.loads(capsys.readouterr().out)

    return run


def named(files):
    return [f"--{part.replace('_', '-')}={path}" for part, path in files.items()]


def test_a_whole_pipeline_folder(verified, files, tmp_path):
    folder = tmp_path / "pipeline"
    for part, name in FOLDERS.items():
        (folder / name).mkdir(parents=True)
        shutil.copy(files[part], folder / name / "model.safetensors")
    (folder / "model_index.json").write_text("{}")
    code, report = verified("--pipeline", folder)
    assert code == 0 and {check["verdict"] for check in report["checks"]} == {"agrees"}
    kinds = {found["name"]: [part["kind"] for part in found["parts"]] for found in report["files"]}
    assert kinds == {"transformer": ["transformer"], "text_encoder": ["text encoder"], "vae": ["autoencoder"]}


@pytest.fixture(scope="module")
def int8(files):
    pytest.importorskip("comfy_kitchen", reason="it makes quantised files")
    path = files["transformer"].with_name("int8.safetensors")
    assert main(["quantize", str(files["transformer"]), str(path), "--format", "int8", "--quiet"]) == 0
    return {**files, "transformer": path}


def test_quantised_weights_are_compared_as_numbers(verified, int8, monkeypatch):
    """A kernel that rounds the inputs does not spoil the comparison with diffusers; one that is broken shows."""
    kept = kitchen.linear
    used = []

    def broken(x, weight, bias):
        if weight.form.settings.get(kitchen.FULL_PRECISION):
            return kept(x, weight, bias)
        used.append(weight)
        return x.new_full((*x.shape[:-1], weight.shape[0]), 3.0)

    code, report = verified(*named(int8))
    assert code == 0 and {check["verdict"] for check in report["checks"]} == {"agrees"}
    monkeypatch.setattr(kitchen, "linear", broken)
    code, report = verified(*named(int8), "--overwrite")
    wrong = [check["what"] for check in report["checks"] if check["verdict"] != "agrees"]
    assert used and code == 1 and wrong == ["transformer, one prediction as drawn"]


def test_a_kernel_that_is_wrong_is_noticed(verified, files, monkeypatch):
    from sana_core.kernels import choice

    kept = choice.Operation.__call__
    monkeypatch.setattr(
        choice.Operation, "__call__", lambda self, *args, **options: spoilt(kept(self, *args, **options))
    )
    code, report = verified(*named(files))
    plain = [check for check in report["checks"] if check["against"].startswith("plain operations")]
    assert code == 1 and plain and {check["verdict"] for check in plain} == {"DISAGREES"}


def spoilt(result):
    return tuple(part * 1.01 for part in result) if isinstance(result, tuple) else result * 1.01


@pytest.mark.parametrize("module", [reference, trajectory])
def test_a_reference_that_runs_out_of_memory_is_a_line(verified, files, monkeypatch, module):
    def fail(*_):
        raise MemoryError("no room")

    monkeypatch.setattr(module, "transformer" if module is reference else "theirs", fail)
    code, report = verified(*named(files))
    lines = [check for check in report["checks"] if check["verdict"] == "not checked"]
    assert code == 0 and lines and all("out of memory" in check["note"] for check in lines)


def test_a_network_of_ours_that_fails_is_a_fault(verified, files, monkeypatch):
    monkeypatch.setattr(trajectory, "ours", lambda *_: 1 / 0)
    code, report = verified(*named(files))
    assert code == 1 and "ZeroDivisionError" in next(c["note"] for c in report["checks"] if c["verdict"] == "FAILED")


def test_files_that_do_not_belong_together(verified, files, tmp_path):
    tensors = load_file(files["text_encoder"])
    tensors.pop("spiece_model")
    bare = tmp_path / "bare.safetensors"
    with safe_open(files["text_encoder"], "pt") as file:
        save_file(tensors, bare, metadata=file.metadata())
    code, report = verified(*named({**files, "text_encoder": bare}))
    assert code == 2 and "comes without tokenizer" in report["error"]
    other = tmp_path / "tokenizer.model"
    nano = load_file(NANO_FILES.text_encoder)
    other.write_bytes(nano["spiece_model"].numpy().tobytes())
    code, report = verified(*named(files), f"--tokenizer={other}")
    assert code == 2 and "tokenizer.model has 5120 pieces and the text encoder 800" in report["error"]
    options = [f"--autoencoder={files['autoencoder']}", f"--transformer={files['autoencoder']}"]
    code, report = verified(*options, f"--text-encoder={files['text_encoder']}")
    assert code == 2 and "expected a SANA transformer" in report["error"]


def test_what_was_counted_is_what_the_readme_says():
    """Its column VRAM; `test_docs.py` counts it anew."""
    readme = (Path(__file__).parents[3] / "README.md").read_text("utf-8")
    rows = {
        line.split("|")[1].strip(): line.split("|")[3].strip() for line in readme.splitlines() if line.count("|") == 6
    }
    for release in RELEASES:
        counted = COUNTED[network_name(release.config), release.native_size]
        assert rows[f"[{release.file_name}]({release.url})"] == f"{counted}"
    assert rows[f"[{TEXT_ENCODER.file_name}]({TEXT_ENCODER.url})"] == f"{COUNTED_TEXT_ENCODER}"
