"""What doctor says of every kind of file, and where it looks for them."""

import json
import shutil
from types import SimpleNamespace

import pytest
import tiny
import tiny_lora
import tiny_pipeline
import torch
from safetensors.torch import save_file

from sana_core.cli import main
from sana_core.doctor.comfyui import ComfyUI, model_folders
from sana_core.doctor.machine import Card, lines, look
from sana_core.doctor.running import takes


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home without ComfyUI."""
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("COMFYUI_DIR", str(tmp_path / "ComfyUI"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path


def parts(capsys, *folders):
    """{file: its parts}, and all that was found."""
    assert main(["doctor", "--quiet", "--json", *map(str, folders)]) == 0
    found = json.loads(capsys.readouterr().out)
    return {model["name"]: model["parts"] for model in found["models"]}, found


def test_every_kind_of_file(home, capsys):
    folder = home / "models"
    folder.mkdir()
    transformer = tiny.transformer(depth=2)
    save_file(tiny_lora.kohya(tiny_lora.factors(transformer)), folder / "lora.safetensors")
    save_file(tiny.controlnet().state_dict(), folder / "control.safetensors")
    save_file(tiny.autoencoder(lite=True).state_dict(), folder / "lite.safetensors")
    save_file({"double_blocks.0.img_attn.qkv.weight": torch.zeros(1)}, folder / "flux.safetensors")
    broken = transformer.state_dict()
    broken.pop("proj_out.bias")
    save_file(broken, folder / "broken.safetensors")
    found, data = parts(capsys, folder)
    kinds = {name: [part["kind"] for part in own] for name, own in found.items()}
    assert kinds == {
        "lora.safetensors": ["lora"],
        "control.safetensors": ["controlnet"],
        "lite.safetensors": ["autoencoder"],
        "broken.safetensors": ["transformer"],
    }
    assert "proj_out.bias" in found["broken.safetensors"][0]["problem"]
    assert found["lite.safetensors"][0]["details"]["lite"] and data["others"] == {"a Flux model": 1}
    assert main(["doctor", "--quiet", "--all", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "CANNOT BE USED" in out and "~/models/flux.safetensors: a Flux model" in out


def test_a_quantised_file_says_its_format(home, capsys):
    pytest.importorskip("comfy_kitchen", reason="it makes quantised files")
    paths = tiny_pipeline.write_files(home)
    options = ["--format", "int8", "--trained-precision", "bfloat16", "--quiet"]
    assert main(["quantize", str(paths["transformer"]), str(home / "small.safetensors"), *options]) == 0
    (part,) = parts(capsys, home / "small.safetensors")[0]["small.safetensors"]
    assert (
        part["details"]["quantised"] == {"int8_tensorwise": 20} and part["details"]["trained_precision"] == "bfloat16"
    )


def test_the_scheduler_of_a_pipeline_folder_decides(home, capsys):
    paths = tiny_pipeline.write_files(home)
    place = home / "pipeline" / "transformer"
    place.mkdir(parents=True)
    save_file(tiny.transformer().state_dict(), place / "diffusion_pytorch_model.safetensors")
    (place / "config.json").write_text("{}")
    (place.parent / "scheduler").mkdir()
    scheduler = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 2.5}
    (place.parent / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    shutil.copy(paths["autoencoder"], place.parent / "vae.safetensors")
    found, _ = parts(capsys, place.parent)
    sampling = found["transformer"][0]["details"]["sampling"]
    assert (sampling["sampler"], sampling["shift"]) == ("flow_euler", 2.5) and "vae.safetensors" in found


def test_comfyui_and_its_extra_folders(home, capsys):
    root, extra = home / "ComfyUI", home / "elsewhere" / "my vae"
    for folder in (root / "comfy", root / "models" / "diffusion_models", extra):
        folder.mkdir(parents=True)
    (root / "main.py").touch()
    (root / "comfyui_version.py").write_text('__version__ = "0.29.1"\n')
    (root / "extra_model_paths.yaml").write_text(
        f"mine:\n  base_path: {extra.parent}\n  vae: |\n    my vae\n    none\n"
    )
    pytest.importorskip("yaml")
    assert model_folders(root) == [root / "models" / "diffusion_models", extra]
    paths = tiny_pipeline.write_files(home)
    shutil.move(paths["autoencoder"], extra / "a.safetensors")
    assert main(["doctor", "--quiet"]) == 0
    out = capsys.readouterr().out
    assert "ComfyUI 0.29.1, one of the tested 0.28 to 0.33, in ~/ComfyUI" in out and "~/elsewhere/my vae:" in out
    assert "-> ~/ComfyUI/models/text_encoders/" in out and "the autoencoder" not in out


@pytest.mark.parametrize(
    "content",
    [
        "- [broken: {",
        "a: 2001-99-99",
        "a:\n  vae: " + "z" * 5000,
        "a:\n  vae: {x: [1]}",
        'a:\n  vae: "\\0"',
    ],
    ids=["no YAML", "no date", "too long", "no text", "no name"],
)
def test_odd_files_of_paths_name_no_folder(home, content):
    pytest.importorskip("yaml")
    (home / "extra_model_paths.yaml").write_text(content)
    assert model_folders(home) == []


@pytest.mark.parametrize(
    ("version", "words"),
    [("0.27.9", "too old"), ("0.33.0", "one of the tested"), ("0.40", "newer than"), ("", "unknown")],
)
def test_versions_of_comfyui(home, version, words):
    assert words in ComfyUI(home, version).words


def test_a_card_in_words(monkeypatch):
    """What a GPU's driver would say; there is none in most tests."""
    from sana_core.doctor import machine

    card = Card(device="cuda:0", name="A card", capability="8.9", total=8 * 10**9, free=None, types=("float32",))
    monkeypatch.setattr(machine, "cards", lambda: [card])
    said = lines(look("cpu"))
    assert "card cuda:0: A card, compute capability 8.9, 8.0 GB, free unknown, computes in float32" in said


def test_releases_by_the_type_they_run_in(monkeypatch):
    from sana_core.doctor import machine

    old = torch.device("cuda")
    monkeypatch.setattr(
        machine, "run_dtypes", lambda config, place: [torch.float16 if config.fp16_trained else torch.float32]
    )
    runs = machine._runs(old)
    assert "Sana_1600M_1024px" in runs["float16"] and "Sana_1600M_1024px_BF16" in runs["float32"]
    assert sum(map(len, runs.values())) == 13


def test_a_driver_without_pytorch_for_it_is_a_hint(monkeypatch):
    from sana_core.doctor import machine

    monkeypatch.setattr(machine, "shutil", SimpleNamespace(which=lambda name: "/usr/bin/nvidia-smi"))
    assert any(line.startswith("hint: this machine has NVIDIA's driver") for line in lines(look("cpu")))


@pytest.mark.parametrize(
    ("gigabytes", "card", "said"),
    [
        (3.9, None, "takes 3.9 GB of a card in 16 bits (counted)"),
        (3.9, 8, "takes 3.9 GB of a card in 16 bits (counted); this one has 8.0 GB"),
        (9.9, 10, "takes 9.9 GB of a card in 16 bits (counted); this one has 10.0 GB: too little, since 1 GB is kept"),
    ],
)
def test_what_a_network_takes_of_the_card(monkeypatch, gigabytes, card, said):
    properties = SimpleNamespace(total_memory=(card or 0) * 10**9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    (found,) = takes(gigabytes, torch.device("cuda" if card else "cpu"))
    assert found == said or found.startswith(said + " free. docs/quantised.md")
    assert takes(None, torch.device("cuda")) == []
