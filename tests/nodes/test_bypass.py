"""Nodes that pass something through can be bypassed: the host then links an input of the same type to each output."""

import pytest
from sana_pack import nodes as pack_nodes

BY_ID = {node.GET_SCHEMA().node_id: node.GET_SCHEMA() for node in pack_nodes.NODES}
PASSED = {
    "SanaNativeLoadLora": {"MODEL", "CLIP"},
    "SanaNativePerturbedAttention": {"MODEL"},
    "SanaNativeGuidanceInterval": {"MODEL"},
    "SanaNativeSoftEdge": {"IMAGE"},
    "SanaNativeGenerate": {"LATENT"},
}


@pytest.mark.parametrize("name", PASSED)
def test_a_bypassed_node_passes_on_what_it_changes(name):
    schema = BY_ID[name]
    inputs = {entry.get_io_type() for entry in schema.inputs}
    outputs = {output.get_io_type() for output in schema.outputs}
    assert PASSED[name] <= inputs & outputs
