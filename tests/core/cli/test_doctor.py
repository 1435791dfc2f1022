"""What doctor says of this machine and of files."""

import json
import os
import pickle
import shutil
import sys
from pathlib import Path

import pytest
import tiny_pipeline
import torch

from sana_core import sources
from sana_core.cli import main
from sana_core.doctor import search


@pytest.fixture
def models(tmp_path, monkeypatch):
    """A folder of models in a home, and no ComfyUI."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("COMFYUI_DIR", str(tmp_path / "none"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


def said(capsys, *options):
    assert main(["doctor", "--quiet", *map(str, options)]) == 0
    return capsys.readouterr().out


def test_the_machine_and_what_is_missing(models, capsys):
    text = said(capsys)
    assert f"PyTorch {torch.__version__}" in text and "fast paths on" in text and "safetensors" in text
    assert "ComfyUI: not found" in text and "0 files of SANA" in text
    missing = text.partition("this is missing:\n")[2].splitlines()
    assert [word in line for word, line in zip(("a transformer", "gemma", "autoencoder"), missing)] == [True] * 3
    assert all("https://" in line for line in missing)


def test_each_file_and_why(models, capsys):
    paths = tiny_pipeline.write_files(models)
    (models / "page.safetensors").write_text("<!doctype html>")
    text = said(capsys, models)
    assert "~/models:" in text and str(models) not in text
    assert "drawn with: 3 steps, cfg 3, shift 2, flow_dpm, 96x64 (as its file states)" in text
    for words in ("SANA transformer: ", "Gemma-2 text encoder: ", "DC-AE autoencoder of SANA", "tokenizer: inside"):
        assert words in text
    assert "1 file cannot be read:\n  ~/models/page.safetensors: is a web page" in text
    assert "3 files of SANA" in text and "Everything is there" in text
    found = json.loads(said(capsys, models, "--json"))
    assert {model["name"] for model in found["models"]} == {path.name for path in paths.values()} | {"page.safetensors"}
    assert not found["missing"]


def test_copies_of_the_embedded_files_are_not_those_that_are_missing(models, capsys):
    for file in (sources.NANO_FILES.autoencoder, sources.NANO_FILES.text_encoder, sources.NANO_FILES.transformer):
        shutil.copy(file, models)
    text = said(capsys, models)
    assert "DC-AE autoencoder of the embedded model" in text and "that of the embedded model" in text
    assert len(text.partition("this is missing:\n")[2].splitlines()) == 3


def test_folders_without_a_model_are_named(models, capsys):
    empty, full = models / "empty", models / "full"
    empty.mkdir()
    full.mkdir()
    tiny_pipeline.write_files(full)
    (empty / "notes.txt").write_text("no model")
    assert "\nno model files in ~/models/empty\n" in said(capsys, full, empty)
    assert "no model files in" not in said(capsys, models, full)


def test_nothing_in_a_file_is_run(models, capsys):
    class Touch:
        def __reduce__(self):
            return Path.touch, (models / "touched",)

    (models / "bad.pth").write_bytes(pickle.dumps({"state_dict": Touch()}, protocol=2))
    assert "bad.pth" in said(capsys, models, "--all")
    assert not (models / "touched").exists()


@pytest.mark.parametrize("name", ["none", "n" * 5000])
def test_a_folder_that_is_not_there(models, capsys, name):
    assert f"~/{name}: there is no such file or folder" in said(capsys, models.parent / name)
    assert json.loads(said(capsys, models.parent / name, "--json"))["absent"] == [f"~/{name}"]


def test_a_comfyui_that_is_none(models, capsys):
    assert "COMFYUI_DIR is ~/none, which is no ComfyUI" in said(capsys)


def test_what_is_neither_file_nor_folder_is_a_line(models, capsys):
    if not Path("/dev/null").is_char_device():
        pytest.skip("this system has no /dev/null")
    assert "/dev/null: is neither a file nor a folder" in said(capsys, "/dev/null")


def test_a_folder_that_cannot_be_opened_is_a_line(models, capsys, monkeypatch):
    closed, walk = models / "closed", os.walk

    def refusing(folder, onerror, **options):
        onerror(PermissionError(13, "Permission denied", str(closed)))
        return walk(folder, onerror=onerror, **options)

    monkeypatch.setattr(os, "walk", refusing)
    assert "~/models/closed: this folder cannot be read (Permission denied)" in said(capsys, models)


@pytest.mark.skipif(sys.platform != "linux", reason="such names are Linux's")
def test_names_of_any_letters(models, capsys):
    file = tiny_pipeline.write_files(models)["autoencoder"]
    for name in ("\x1b[31mred\nname.safetensors", "\udcff.safetensors", "\u732b.safetensors"):
        shutil.copy(file, models / name)
    text = said(capsys, models)
    assert "\n  \\x1b[31mred name.safetensors (" in text and "\u732b.safetensors (" in text and "\x1b" not in text
    assert "~/models/\\udcff.safetensors: cannot be read: its name or its folder's is not UTF-8: rename it" in text


def test_a_shortage_of_memory_is_no_fault_of_the_file(models, capsys, monkeypatch):
    tiny_pipeline.write_files(models)

    def fail(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(search, "read_checkpoint", fail)
    text = said(capsys, models)
    assert text.count("there is too little memory to read it") == 3 and "damaged" not in text
