"""What saved workflows and the API rely on: node ids, inputs and outputs by place, name and type, and the choices.

`interface.json` holds them as they were released. Saved workflows keep widget values by their place and choices by
their text, so that new inputs come after all that are there, and nothing is taken away or renamed.
"""

import json
import os
from pathlib import Path

import pytest
from sana_pack import nodes as pack_nodes

FILE = Path(__file__).with_name("interface.json")
BROKEN = (
    "{node} is no longer what saved workflows expect: {what} was {old}, now the list begins {new}. Put new inputs, "
    "outputs and choices after the others (an optional input is behind all required ones), rename and remove nothing; "
    "for another interface make a node of another id, and map the old one in nodes/bridge/migration.py"
)
NEW = (
    f"the nodes have grown: run UPDATE_INTERFACE=1 pytest {FILE.parent.name}/test_interface.py, and commit {FILE.name}"
)


def described(inputs):
    """[[name, type, choices], ...] of the inputs of a node or of a choice, in the order of widgets."""
    found = []
    for section in ("required", "optional"):
        for name, (kind, options) in inputs.get(section, {}).items():
            fixed = options.get("options", []) if "default" in options or kind == "COMFY_DYNAMICCOMBO_V3" else []
            found.append([name, kind, [choice_of(option) for option in fixed if not is_file(option)]])
    return found


def is_file(option):
    """Of this machine, and no choice that workflows rely on."""
    return isinstance(option, str) and option.endswith((".safetensors", ".pth", ".gguf"))


def choice_of(option):
    """A choice by its text, or [text, inputs that it brings]."""
    return [option["key"], described(option["inputs"])] if isinstance(option, dict) else option


def key_of(choice):
    return choice[0] if isinstance(choice, list) else choice


def interface():
    """{node id: {"inputs": ..., "outputs": ...}} as the editor is told."""
    found = {}
    for node in pack_nodes.NODES:
        info = node.GET_NODE_INFO_V1()
        outputs = [list(pair) for pair in zip(info["output_name"], info["output"], strict=True)]
        found[info["name"]] = {"inputs": described(info["input"]), "outputs": outputs}
    return found


def as_text(found):
    """The JSON with a line for each input and each output."""
    parts = []
    for node, lists in found.items():
        lines = {name: ",\n   ".join(map(json.dumps, entries)) for name, entries in lists.items()}
        shown = (f'  "{name}": [\n   {entries}\n  ]' for name, entries in lines.items())
        parts.append(f' "{node}": {{\n' + ",\n".join(shown) + "\n }")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def test_saved_workflows_keep_their_meaning():
    current, released = interface(), json.loads(FILE.read_text(encoding="utf-8"))
    for node, parts in released.items():
        assert node in current, BROKEN.format(node=node, what="the node", old="there", new="without it")
        check(node, "outputs", parts["outputs"], current[node]["outputs"])
        check_inputs(node, parts["inputs"], current[node]["inputs"])


def check(node, what, old, new):
    assert new[: len(old)] == old, BROKEN.format(node=node, what=what, old=old, new=new[: len(old)])


def check_inputs(node, old, new):
    check(node, "inputs", [entry[:2] for entry in old], [entry[:2] for entry in new])
    for (name, _, choices), (_, _, now) in zip(old, new):
        keys, keys_now = ([key_of(choice) for choice in those] for those in (choices, now))
        missing = [key for key in keys if key not in keys_now]
        assert not missing, BROKEN.format(node=node, what=f"a choice of {name}", old=missing, new=keys_now)
        for choice in choices:
            if isinstance(choice, list):
                check_inputs(node, choice[1], now[keys_now.index(choice[0])][1])


def test_the_file_knows_all_nodes():
    if os.environ.get("UPDATE_INTERFACE"):
        FILE.write_text(as_text(interface()), encoding="utf-8")
    assert json.loads(FILE.read_text(encoding="utf-8")) == interface(), NEW


@pytest.mark.parametrize("change", [
    lambda inputs: inputs.insert(1, ["new", "INT", []]),
    lambda inputs: inputs.pop(),
    lambda inputs: inputs.reverse(),
    lambda inputs: inputs[-1].__setitem__(0, "renamed"),
    lambda inputs: inputs[-1].__setitem__(1, "INT"),
    lambda inputs: inputs[3][2].remove("2k"),
])  # fmt: skip
def test_changes_that_break_are_seen(change):
    old = interface()["SanaNativeLoad"]["inputs"]
    new = json.loads(json.dumps(old))
    change(new)
    with pytest.raises(AssertionError, match="no longer what saved workflows expect"):
        check_inputs("SanaNativeLoad", old, new)


def test_what_is_appended_breaks_nothing():
    old = interface()["SanaNativeLoad"]["inputs"]
    new = json.loads(json.dumps(old))
    new[3][2].insert(1, "8k")
    check_inputs("SanaNativeLoad", old, [*new, ["new", "INT", []]])
