"""What README.md and docs/ say of the pack is so: links, names, the table of releases, the Python client."""

import ast
import json
import re
from pathlib import Path

import pytest
import torch

from bench.memory import peak
from bench.networks import transformer
from bench.steps import DTYPE, kept_step
from sana_core.live_memory import weight_bytes
from sana_core.presets import AUTOENCODERS, CONTROLNETS, RELEASES, TEXT_ENCODER, Release

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
README = PAGES[0].read_text("utf-8")
DC_AE_DOWNLOAD, DC_AE_NAME = "diffusion_pytorch_model.safetensors", "sana_dc_ae_f32c32_1.1.safetensors"
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCED = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
EMPHASIS = re.compile(r"(?<![*\w])\*([^*\n]+)\*(?![*\w])|`([^`\n]+)`")
TEMPLATE = re.compile(r"SANA-[\w.-]+")
NODE = re.compile(r"(?:Load|Empty|Quantize) SANA\b.*|SANA [A-Z].*|SanaNative\w+")
META, HUB = torch.device("meta"), "https://huggingface.co/"
each_page = pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])


def anchors(page):
    """Of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def row(part):
    """The cells of a published file in the table of the README."""
    (line,) = [line for line in README.splitlines() if line.startswith(f"| [{part.file_name}](")]
    return [cell.strip() for cell in line.strip("|").split("|")]


@each_page
def test_links_lead_somewhere(page):
    for link in LINK.findall(FENCED.sub("", page.read_text("utf-8"))):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{page.name} links to {link}"
        assert not anchor or anchor in anchors(target), f"{page.name} links to {link}"


@each_page
def test_templates_and_nodes_exist(page):
    templates = {path.stem for path in (ROOT / "workflows").glob("*.json")}
    ids = json.loads((ROOT / "node_list.json").read_text("utf-8"))
    nodes = {*ids, *ids.values()}
    for groups in EMPHASIS.findall(FENCED.sub("", page.read_text("utf-8"))):
        name = next(filter(None, groups)).rpartition("> ")[2].removesuffix(".json")
        if TEMPLATE.fullmatch(name):
            assert name in templates, f"{page.name} names the template {name}"
        elif NODE.fullmatch(name):
            assert name in nodes, f"{page.name} names the node {name}"


@each_page
def test_python_compiles(page):
    for language, code in FENCED.findall(page.read_text("utf-8")):
        if language == "python":
            ast.parse(code)


def test_every_page_is_in_the_list_of_the_readme():
    linked = {ROOT / link.partition("#")[0] for link in LINK.findall(README)}
    assert set(PAGES[1:]) <= linked


@pytest.mark.parametrize("part", (*RELEASES, *CONTROLNETS), ids=lambda part: part.name)
def test_the_table_of_files_is_that_of_the_presets(part):
    file, gigabytes, _, licence, page = row(part)
    assert file == f"[{part.file_name}]({part.url})" and page == f"[page]({HUB}{part.repository})"
    assert licence and part.licence.startswith(licence)
    if isinstance(part, Release):
        weights = sum(weight.numel() for weight in transformer(part.config, META, DTYPE).parameters())
        assert gigabytes == f"{4e-9 * weights:.1f}"


@pytest.mark.slow
@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.name)
def test_the_memory_in_the_table_is_counted(release):
    network = transformer(release.config, META, DTYPE)
    most = weight_bytes(network) + peak(lambda: kept_step(network, release.native_size // 32, META))
    assert row(release)[2] == f"{most / 1e9:.1f}"


def test_the_other_files_are_those_of_the_presets():
    for part in (TEXT_ENCODER, AUTOENCODERS[0]):
        assert f"({part.url})" in README and f"({HUB}{part.repository})" in README
    folders = {part.directory for part in (*RELEASES, TEXT_ENCODER, *AUTOENCODERS, *CONTROLNETS)}
    assert all(f"  {folder}/ " in README for folder in folders)
    assert AUTOENCODERS[0].file_name == DC_AE_DOWNLOAD and DC_AE_DOWNLOAD in README and DC_AE_NAME in README
