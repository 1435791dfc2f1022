"""The templates as files: what the editor, the template browser and the missing-model panel read from them."""

import re

from workflows.templates import FOLDER, NAMES, PROMPTS, each_template, link_sources, load, load_prompt, nodes

from sana_core.presets import RELEASES

URL = re.compile(r"https://huggingface\.co/(?P<repository>[^/]+/[^/]+)/resolve/main/(?P<file>.+)")
CONTROL = "control_after_generate"  # a widget of the editor alone
TITLE_BAR = 30  # above `pos` of a node


def test_every_template_has_a_picture_and_an_api_twin_and_nothing_else_is_there():
    assert NAMES and all(re.fullmatch(r"[a-zA-Z0-9_.-]+", name) for name in NAMES)  # a deep link takes no other characters
    assert sorted(path.name for path in FOLDER.iterdir()) == sorted(name + end for name in NAMES for end in (".json", ".jpg"))
    assert sorted(path.name for path in PROMPTS.iterdir()) == [f"{name}.json" for name in NAMES]


@each_template
def test_the_api_twin_says_what_the_template_says(name):
    template, prompt = load(name), load_prompt(name)
    sources = link_sources(template)
    expected = {}
    for node in nodes(template):
        links = {slot["name"]: sources[slot["link"]] for slot in node.get("inputs", []) if slot["link"] is not None}
        widgets = {key: value for key, value in node.get("widgets_values_named", {}).items() if key != CONTROL}
        expected[str(node["id"])] = (node["type"], {**widgets, **links})
    assert {key: (node["class_type"], node["inputs"]) for key, node in prompt.items()} == expected


@each_template
def test_widget_values_by_position_are_those_by_name(name):
    for node in nodes(load(name)):
        assert node.get("widgets_values", []) == list(node.get("widgets_values_named", {}).values()), node["type"]


@each_template
def test_nodes_tell_the_pack_they_come_from(name):
    for node in nodes(load(name)):
        assert node["properties"]["cnr_id"] == ("sana-native" if node["type"].startswith("SanaNative") else "comfy-core")
        assert re.fullmatch(r"\d+\.\d+\.\d+", node["properties"]["ver"])


@each_template
def test_a_file_to_download_is_the_one_that_is_chosen(name):
    releases = {(release.repository, release.file) for release in RELEASES}
    for node in nodes(load(name)):
        for model in node["properties"].get("models", []):
            address = URL.fullmatch(model["url"])
            assert address, model["url"]
            assert address["file"].rpartition("/")[2] == model["name"]  # the browser saves it under this name
            assert model["name"] in node["widgets_values"]
            assert model["directory"] in ("diffusion_models", "text_encoders", "vae")
            assert model["directory"] != "diffusion_models" or (address["repository"], address["file"]) in releases


@each_template
def test_only_the_embedded_model_needs_no_download(name):
    for node in nodes(load(name)):
        files = [value for value in node.get("widgets_values", []) if str(value).endswith((".safetensors", ".pth"))]
        to_download = [model["name"] for model in node["properties"].get("models", [])]
        assert [file for file in files if not file.startswith("sana_nano")] == to_download, node["type"]


@each_template
def test_no_node_lies_over_another(name):
    boxes = [(*node["pos"], *node["size"]) for node in load(name)["nodes"]]
    for index, (x, y, width, height) in enumerate(boxes):
        for left, top, wide, high in boxes[index + 1 :]:
            apart_x = x + width <= left or left + wide <= x
            assert apart_x or y + height <= top - TITLE_BAR or top + high <= y - TITLE_BAR


@each_template
def test_a_note_says_what_it_is(name):
    notes = [node["widgets_values"][0] for node in load(name)["nodes"] if node["type"] == "MarkdownNote"]
    assert len(notes) == 1 and notes[0].startswith("## SANA")
