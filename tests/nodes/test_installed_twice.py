"""The pack in two folders of custom_nodes: the second copy says so and registers nothing."""

import asyncio
import importlib.util
import logging
import sys
from pathlib import Path

import folder_paths
import pytest
import sana_pack as pack
from comfy import model_detection, supported_models
from comfy import sd as comfy_sd
from sana_pack.nodes.bridge import registration

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["sana second", "a-copy.1"])
def second(request, tmp_path):
    """Another copy of the pack, imported as ComfyUI imports a folder, after the first one has been loaded."""
    folder = tmp_path / request.param
    folder.mkdir()
    for name in ("__init__.py", "nodes", "sana_core"):
        (folder / name).symlink_to(ROOT / name)
    name = str(folder).replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield folder, module
    for key in [key for key in sys.modules if key == name or key.startswith(f"{name}.")]:
        del sys.modules[key]


def load(module):
    """What ComfyUI gets of a pack: its nodes."""

    async def run():
        extension = await module.comfy_entrypoint()
        await extension.on_load()
        return await extension.get_node_list()

    return asyncio.run(run())


def registered():
    """All that the pack's hooks and folders change in the host."""
    hooks = (model_detection.detect_unet_config, comfy_sd.VAE.__init__, comfy_sd.load_lora_for_models)
    return (
        list(supported_models.models),
        hooks,
        {kind: list(paths[0]) for kind, paths in folder_paths.folder_names_and_paths.items()},
    )


def test_the_second_copy_steps_back(second, caplog):
    folder, module = second
    before = registered()
    with caplog.at_level(logging.INFO, logger="sana"):
        assert load(module) == []
    assert registered() == before
    assert module.WEB_DIRECTORY is None
    (line,) = [record.getMessage() for record in caplog.records]
    assert "installed twice" in line and str(folder) in line and str(ROOT) in line and "\n" not in line


def test_the_first_copy_keeps_working(second, file, caplog):
    load(second[1])
    caplog.clear()
    assert registration.other_copy() is None
    assert len(load(pack)) == len(pack.nodes.NODES) and pack.WEB_DIRECTORY == "./js"
    assert "twice" not in caplog.text
    assert (
        type(comfy_sd.load_diffusion_model(file("diffusion_models", "sana.safetensors")).model)
        is registration.SanaModel
    )


def test_a_model_of_another_pack_is_no_second_copy(monkeypatch):
    class Sana(supported_models.models[-1]):
        unet_config = registration.Sana.unet_config

    monkeypatch.setattr(supported_models, "models", [Sana, *supported_models.models])
    assert registration.other_copy() is None
