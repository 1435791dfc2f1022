"""One ComfyUI for all tests of this folder."""

import pytest
from workflows.installed import serve


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    with serve(tmp_path_factory.mktemp("comfyui")) as running:
        yield running


@pytest.fixture(scope="session")
def node_infos(server):
    """What ComfyUI tells the editor of this pack's nodes, by id."""
    infos = server.get("/object_info")
    return {name: info for name, info in infos.items() if name.startswith("SanaNative")}
