"""A server whose custom_nodes hold the pack in two folders."""

import shutil

import pytest
from e2e import tiny_files
from e2e.graphs import Parts
from e2e.server import PACK, Graph, Server

PARTS = ("__init__.py", "nodes", "sana_core", "js")


@pytest.fixture(scope="module")
def twice(runnable, tmp_path_factory):
    base, copy = tmp_path_factory.mktemp("twice"), tmp_path_factory.mktemp("copies") / "another-copy.of it"
    copy.mkdir()
    for part in PARTS:
        place = PACK / part
        ignored = shutil.ignore_patterns("__pycache__", "*.safetensors")
        shutil.copytree(place, copy / part, ignore=ignored) if place.is_dir() else shutil.copy(place, copy / part)
    tiny_files.write_all(base / "models")
    server = Server(*runnable, base, extra_packs=[copy])
    yield server, copy
    server.stop()


def test_one_copy_works_and_the_log_names_both(twice):
    server, copy = twice
    said = [line for line in server.output().splitlines() if "installed twice" in line]
    folders = [str(server.base / "custom_nodes" / name) for name in (PACK.name, copy.name)]
    assert len(said) == 1 and all(folder in said[0] for folder in folders)
    nodes = server.get("/object_info").items()
    assert len({info["python_module"] for name, info in nodes if name.startswith("SanaNative")}) == 1
    scripts = [path for path in server.get("/extensions") if path.endswith("/sana.js")]
    assert len(scripts) == 1


def test_stock_and_own_nodes_share_their_models(twice):
    """The stock loader's model in the pack's PAG node, and the stock Load LoRA on the pack's model."""
    server, _ = twice
    g = Graph()
    parts = Parts(g)
    widgets = {"native_size": "auto", "weight_dtype": "default", "trained_precision": "auto"}
    own = g.add("SanaNativeLoadModel", model="sana.safetensors", **widgets)[0]
    patched = g.add("LoraLoaderModelOnly", model=own, lora_name="lora.safetensors", strength_model=1.0)[0]
    pag = {"scale": 2.0, "layers": "", "adaptive_scale": 0.0, "start_percent": 0.0, "end_percent": 1.0}
    for model in (patched, parts.model):
        guided = g.add("SanaNativePerturbedAttention", model=model, **pag)[0]
        g.add("ModelSave", model=guided, filename_prefix="diffusion_models/out")
    server.run(g)
    assert "not loaded" not in server.output()
