"""The embedded model stands in the host's drop-down lists, each file under its own kind."""

import pytest
from e2e.comfyui import REASON

paths = pytest.importorskip("sana_pack.nodes.bridge.paths", reason=REASON)
folder_paths = pytest.importorskip("folder_paths", reason=REASON)


@pytest.mark.parametrize("kind", ["diffusion_models", "text_encoders", "vae"])
def test_folders_come_last_and_once(monkeypatch, kind):
    monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, (["the user's"], {".safetensors"}))
    paths.add_embedded_model()
    paths.add_embedded_model()
    assert folder_paths.get_folder_paths(kind) == ["the user's", str(paths.NANO / kind)]


@pytest.mark.parametrize("kind", ["diffusion_models", "text_encoders", "vae"])
def test_files_are_listed_under_their_kind_alone(kind):
    (file,) = [path.name for path in (paths.NANO / kind).glob("*.safetensors")]
    assert [other for other in paths.KINDS if file in paths.model_files(other)] == [kind]
