"""The table of replacements against the nodes that it names, and the files that published names mean."""

import asyncio
import inspect

import pytest
from app import node_replace_manager as replace_manager
from e2e.old_workflows import NODES as OLD_NODES
from sana_pack import nodes as pack_nodes
from sana_pack.nodes.bridge import migration, paths
from sana_pack.sana_core import errors

import nodes as comfy_nodes

each = pytest.mark.parametrize("replacement", migration.REPLACEMENTS, ids=lambda replacement: replacement.old)


def inputs(name):
    """{input name: options or type} that a node requires, and all that it takes."""
    own = {node.GET_SCHEMA().node_id: node for node in pack_nodes.NODES}
    node = own.get(name) or host_node(name)
    types = node.INPUT_TYPES()
    return types.get("required", {}), {**types.get("required", {}), **types.get("optional", {})}


def host_node(name):
    if name in comfy_nodes.NODE_CLASS_MAPPINGS:
        return comfy_nodes.NODE_CLASS_MAPPINGS[name]
    import comfy_extras.nodes_model_advanced as advanced

    return advanced.NODE_CLASS_MAPPINGS[name]


@each
def test_what_is_set_and_carried_over_fits_the_new_node(replacement):
    required, known = inputs(replacement.new)
    filled = {*replacement.inputs.values(), *replacement.values}
    assert filled <= set(known)
    assert set(required) <= filled
    for name, value in replacement.values.items():
        options = known[name][1].get("options") if isinstance(known[name][0], str) else known[name][0]
        assert not options or value in options or value == migration.GEMMA  # a file that may not be there


@each
def test_what_is_carried_over_exists_on_the_old_node(replacement):
    if replacement.old in OLD_NODES:
        sockets, outputs = OLD_NODES[replacement.old]
        assert set(replacement.inputs) <= {*sockets, *replacement.old_widgets}
        assert replacement.outputs == len(outputs)


def test_the_editor_is_told_of_outputs_and_the_host_is_not():
    """The host's own handling of prompts fails on a mapping of outputs where both ends of a link are replaced."""
    for replacement in migration.REPLACEMENTS:
        told = replacement.for_host()
        assert told.as_dict()["output_mapping"] == [{"old_idx": i, "new_idx": i} for i in range(replacement.outputs)]
        assert told.output_mapping is None
        assert told.as_dict()["old_widget_ids"] == list(replacement.old_widgets)


def test_registering_twice_is_registering_once(monkeypatch):
    manager = replace_manager.NodeReplaceManager()
    import server

    monkeypatch.setattr(
        server.PromptServer, "instance", type("Instance", (), {"node_replace_manager": manager}), raising=False
    )
    for _ in range(2):
        asyncio.run(migration.register())
    assert {old: len(entries) for old, entries in manager._replacements.items()} == {
        r.old: 1 for r in migration.REPLACEMENTS
    }


def test_a_host_without_a_server_is_left_alone(monkeypatch, caplog):
    import server

    monkeypatch.delattr(server.PromptServer, "instance", raising=False)
    with caplog.at_level("INFO", "sana"):
        asyncio.run(migration.register())
    assert "will not be offered" in caplog.text and inspect.iscoroutinefunction(migration.register)


# --- published names


@pytest.mark.parametrize("kind, name, files, found", [
    ("diffusion_models", "Efficient-Large-Model/Sana_1600M_1024px",
     ["Sana_1600M_1024px_BF16.pth", "Sana_1600M_1024px.safetensors"], 1),
    ("diffusion_models", "Efficient-Large-Model/Sana_600M_512px", ["Sana_600M_512px_MultiLing.pth"], 0),
    ("diffusion_models", "Efficient-Large-Model/Sana_1600M_2Kpx_BF16_diffusers", ["x/Sana_1600M_2Kpx_BF16.pth"], 0),
    ("vae", "mit-han-lab/dc-ae-f32c32-sana-1.1-diffusers",
     ["diffusion_pytorch_model.safetensors",
      "models--mit-han-lab--dc-ae-f32c32-sana-1.1-diffusers\\diffusion_pytorch_model.safetensors"], 1),
    ("vae", "mit-han-lab/dc-ae-f32c32-sana-1.1V-diffusers",
     ["dc-ae-f32c32-sana-1.0.safetensors", "dc-ae-f32c32-sana-1.1.safetensors"], 1),
])  # fmt: skip
def test_the_file_that_a_published_name_means(monkeypatch, kind, name, files, found):
    monkeypatch.setattr(paths, "model_files", lambda _: files)
    monkeypatch.setattr(paths, "model_path", lambda _, file: file)
    assert paths.choice_error(kind, name) is None
    assert paths.choice_path(kind, name) == files[found]
    assert paths.choice_path(kind, files[0]) == files[0]


def test_every_published_name_has_an_address(monkeypatch):
    monkeypatch.setattr(paths, "model_files", lambda _: [])
    for kind, parts in paths.PUBLISHED.items():
        for part in parts:
            with pytest.raises(
                errors.InputError, match=r"download https://huggingface\.co/[\w-]+/.+ and save it there as .+"
            ):
                paths.choice_path(kind, part.repository)
    assert paths.choice_error("vae", "kl-f8.safetensors").startswith("there is no kl-f8.safetensors in models/vae")
    assert paths.choice_error("vae", "somebody/else")
