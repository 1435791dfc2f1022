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
    """All nodes but the notes."""
    return [node for node in template["nodes"] if node["type"] not in NOTES]


def link_sources(template):
    """{link id: [id of the node it comes from, output index]}"""
    return {link[0]: [str(link[1]), link[2]] for link in template["links"]}
