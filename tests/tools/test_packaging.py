"""What the registry and ComfyUI-Manager are given: which files, which metadata, which nodes.

`.ci/registry` runs the tools of others on it.
"""

import ast
import json
import re
import subprocess
from pathlib import Path

import pytest
from PIL import Image

import sana_core
from tools.registry.node_list import FILE, node_list

ROOT = Path(__file__).parents[2]
DEVICES = {f"GPU :: {name}" for name in ("NVIDIA CUDA", "AMD ROCm", "Intel Arc", "Apple Metal")} | {
    "NPU :: Huawei Ascend"
}
"""All that the registry knows; one unknown word makes it drop them all."""


@pytest.fixture(scope="module")
def packed():
    """Paths of the files that are published: those of git without those that .comfyignore names."""
    if not (ROOT / ".git").exists():
        pytest.skip("no git checkout, which is what gets published")
    ignored = tracked("--ignored", "--exclude-from=.comfyignore")
    return tracked() - ignored


@pytest.fixture(scope="module")
def project():
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 cannot read TOML")
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def tracked(*options):
    command = ["git", "ls-files", "-z", "--cached", *options]
    return set(subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout.split("\0")[:-1])


def test_what_no_user_needs_is_not_published(packed):
    assert {path.split("/")[0] for path in packed} == {
        "CHANGELOG.md",
        "LICENSE",
        "README.md",
        "__init__.py",
        "docs",
        "js",
        "locales",
        "node_list.json",
        "nodes",
        "pyproject.toml",
        "requirements.txt",
        "sana_core",
        "subgraphs",
        "workflows",
    }


def test_what_the_pack_needs_is_published(packed):
    needed = {path for path in tracked() if path.startswith(("js/", "locales/", "nodes/", "sana_core/", "workflows/"))}
    assert needed - packed == set()


def test_published_modules_import_published_ones(packed):
    for path in (path for path in packed if path.endswith(".py")):
        for node in ast.walk(ast.parse((ROOT / path).read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                place = Path(path).parents[node.level - 1] / (node.module or "").replace(".", "/")
                names = [place.with_suffix(".py"), place / "__init__.py"] if node.module else [place / "__init__.py"]
                assert any(name.as_posix() in packed for name in names), f"{path} imports {place}"


def test_the_pictures_of_the_readme_are_published(packed):
    pictures = re.findall(r"!\[[^]]*\]\((?!https?:)([^)]+)\)", (ROOT / "README.md").read_text("utf-8"))
    assert pictures and set(pictures) <= packed


def test_the_list_of_nodes_is_that_of_the_pack():
    listed = json.loads(FILE.read_text("utf-8"))
    assert listed == node_list(), "run python tools/registry/node_list.py"
    interface = json.loads((ROOT / "tests" / "nodes" / "interface.json").read_text("utf-8"))
    assert set(listed) == set(interface)


def test_the_metadata_keeps_to_the_rules_of_the_registry(project):
    about, comfy = project["project"], project["tool"]["comfy"]
    assert re.fullmatch(r"[a-z](-?[a-z0-9]+)*", about["name"]) and "comfyui" not in about["name"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", about["version"]) and about["version"] == sana_core.__version__
    assert re.fullmatch(r">=\d+\.\d+\.\d+", comfy["requires-comfyui"])
    environments = [name.removeprefix("Environment :: ") for name in about["classifiers"] if "Environment" in name]
    assert environments and set(environments) <= DEVICES
    assert {"Repository", "Documentation", "Bug Tracker"} <= set(about["urls"]) and comfy["PublisherId"]


def test_icon_and_banner_have_the_sizes_of_the_registry(project):
    sizes = {}
    for name in ("Icon", "Banner"):
        path = project["tool"]["comfy"][name].partition("/main/")[2]
        with Image.open(ROOT / path) as picture:
            sizes[name] = picture.size
    assert max(sizes["Icon"]) <= 400 and sizes["Icon"][0] == sizes["Icon"][1]
    assert sizes["Banner"][0] * 9 == sizes["Banner"][1] * 21


def test_every_address_of_the_owner_is_of_one_owner(project):
    addresses = [*project["project"]["urls"].values(), *(project["tool"]["comfy"][name] for name in ("Icon", "Banner"))]
    assert len({re.search(r"\.com/([^/]+/[^/]+)", address)[1] for address in addresses}) == 1
