"""The embedded model stands in the host's drop-down lists, each file under its own kind."""

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
    assert folder_paths.get_folder_paths(kind) == ["the user's", str(paths.NANO / kind)]


@each_kind
def test_files_are_listed_under_their_kind_alone(kind):
    assert {path.name for path in (paths.NANO / kind).glob("*.safetensors")} == FILES[kind]
    for file in FILES[kind]:
        assert [other for other in paths.KINDS if file in paths.model_files(other)] == [kind]
