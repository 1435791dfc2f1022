"""The packaged templates and the API prompts that the editor makes of them."""

import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "workflows"
PROMPTS = Path(__file__).parent / "prompts"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
NOTES = ("MarkdownNote", "Note")

each_template = pytest.mark.parametrize("name", NAMES)


def load(name):
    """A template as the editor saved it."""
    return json.loads((FOLDER / f"{name}.json").read_text("utf-8"))


def load_prompt(name):
    """Its API twin, {node id: {"class_type", "inputs", "_meta"}}; made in the editor by File > Export (API)."""
    return json.loads((PROMPTS / f"{name}.json").read_text("utf-8"))


def nodes(template):
    """All nodes that run, those of the subgraphs too."""
    subgraphs = template.get("definitions", {}).get("subgraphs", [])
    hidden = {*NOTES, *(subgraph["id"] for subgraph in subgraphs)}
    return [node for graph in (template, *subgraphs) for node in graph["nodes"] if node["type"] not in hidden]


def subgraph_node(template):
    """The one node that holds the subgraph."""
    (subgraph,) = template["definitions"]["subgraphs"]
    (node,) = [node for node in template["nodes"] if node["type"] == subgraph["id"]]
    return node
