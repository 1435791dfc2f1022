"""The embedded model stands in the host's drop-down lists, each file under its own kind."""

from pathlib import Path

import folder_paths
import pytest
from sana_pack.nodes.bridge import paths

FILES = {
    "diffusion_models": {"sana_nano.safetensors", "sana_nano_sprint.safetensors"},
    "text_encoders": {"sana_nano_text.safetensors"},
    "vae": {"sana_nano_vae.safetensors"},
    "controlnet": {"sana_nano_controlnet.safetensors"},
    "loras": {"sana_nano_style.safetensors", "sana_nano_subject.safetensors"},
}
each_kind = pytest.mark.parametrize("kind", FILES)


@each_kind
def test_folders_come_last_and_once(monkeypatch, kind):
    monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, (["the user's"], {".safetensors"}))
    paths.add_folders()
    paths.add_folders()
    embedded = [str(paths.NANO / kind)] if kind in paths.SHARED else []
    assert folder_paths.get_folder_paths(kind) == ["the user's", *embedded]


@each_kind
def test_files_are_listed_under_their_kind_alone(kind):
    assert {path.name for path in (paths.NANO / kind).glob("*.safetensors")} == FILES[kind]
    for file in FILES[kind]:
        assert [other for other in FILES if file in paths.model_files(other)] == [kind]
        assert Path(paths.model_path(kind, file)).is_file()


@each_kind
def test_they_are_the_last_of_a_list(monkeypatch, tmp_path, kind):
    (tmp_path / "zebra.safetensors").touch()
    monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, ([str(tmp_path)], {".safetensors"}))
    assert paths.model_files(kind) == ["zebra.safetensors", *sorted(FILES[kind])]


def test_stock_loaders_do_not_list_the_text_encoder_which_they_cannot_load():
    assert not FILES["text_encoders"] & set(folder_paths.get_filename_list("text_encoders"))
