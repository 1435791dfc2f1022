"""The templates as files: what the editor, the template browser and the missing-model panel read from them."""

import json
import re

from workflows.templates import FOLDER, NAMES, PROMPTS, each_template, load, load_prompt, nodes, subgraph_node

from sana_core.presets import AUTOENCODERS, CONTROLNETS, RELEASES, TEXT_ENCODER

PUBLISHED = {part.url: part for part in (*RELEASES, *CONTROLNETS, *AUTOENCODERS, TEXT_ENCODER)}
OF_THE_USER = ("example.png",)  # the picture that ComfyUI brings
FILE = re.compile(r".+\.(safetensors|pth|png)")


def test_every_template_has_a_picture_and_an_api_twin_and_nothing_else_is_there():
    assert NAMES and all(
        re.fullmatch(r"[a-zA-Z0-9_.-]+", name) for name in NAMES
    )  # a deep link takes no other characters
    assert sorted(path.name for path in FOLDER.iterdir()) == sorted(
        name + end for name in NAMES for end in (".json", ".jpg")
    )
    assert sorted(path.name for path in PROMPTS.iterdir()) == sorted(f"{name}.json" for name in NAMES)


@each_template
def test_the_api_twin_has_the_nodes_of_the_template(name):
    template = load(name)
    assert sorted(node["class_type"] for node in load_prompt(name).values()) == sorted(
        node["type"] for node in nodes(template)
    )


@each_template
def test_a_template_is_a_note_a_subgraph_and_pictures(name):
    template = load(name)
    shown = subgraph_node(template)
    around = [node["type"] for node in template["nodes"] if node is not shown]
    assert "MarkdownNote" in around and "SaveImage" in around and template["groups"] == []
    assert set(around) <= {"MarkdownNote", "SaveImage", "PreviewImage", "PreviewAny", "LoadImage"}
    labels = [slot.get("label") for slot in shown["inputs"] if slot.get("widget")]
    assert labels[0] == "prompt" and "seed" in labels and len(labels) <= 9
    assert "definitions" in template and None not in template.values()


@each_template
def test_widget_values_by_position_are_those_by_name(name):
    for node in nodes(load(name)):
        assert node.get("widgets_values", []) == list(node.get("widgets_values_named", {}).values()), node["type"]


@each_template
def test_nodes_tell_the_pack_they_come_from(name):
    for node in nodes(load(name)):
        assert node["properties"]["cnr_id"] == (
            "sana-native" if node["type"].startswith("SanaNative") else "comfy-core"
        )
        assert re.fullmatch(r"\d+\.\d+\.\d+", node["properties"]["ver"])


@each_template
def test_a_file_to_download_is_a_published_one_under_the_name_that_is_chosen(name):
    for node in nodes(load(name)):
        for model in node["properties"].get("models", []):
            part = PUBLISHED[model["url"]]
            assert (model["name"], model["directory"]) == (
                part.local_name,
                part.directory,
            )
            assert model["name"] in node["widgets_values"]


@each_template
def test_only_the_embedded_model_and_the_users_files_need_no_download(name):
    template = load(name)
    made = made_files(template)
    for node in nodes(template):
        files = [
            value
            for value in node.get("widgets_values", [])
            if FILE.fullmatch(str(value)) and value not in (*OF_THE_USER, *made)
        ]
        to_download = [model["name"] for model in node["properties"].get("models", [])]
        assert [file for file in files if not file.startswith("sana_nano")] == to_download, node["type"]


def made_files(template):
    """What the nodes Quantize SANA Model of a template call their files."""
    chosen = [node["widgets_values_named"] for node in nodes(template) if node["type"] == "SanaNativeQuantize"]
    sources = [(widgets["model"], widgets["text_encoder"]) for widgets in chosen]
    names = [text_encoder if model == "none" else model for model, text_encoder in sources]
    return [f"{name.rpartition('.')[0]}_{widgets['format']}.safetensors" for name, widgets in zip(names, chosen)]


@each_template
def test_files_that_a_template_makes_are_those_it_loads(name):
    template = load(name)
    made = made_files(template)
    if made:
        (loader,) = [node for node in nodes(template) if node["type"] == "SanaNativeLoad"]
        assert set(made) <= set(loader["widgets_values"])


@each_template
def test_a_note_says_what_it_is(name):
    notes = [node["widgets_values"][0] for node in load(name)["nodes"] if node["type"] == "MarkdownNote"]
    assert len(notes) == 1 and notes[0].startswith("## SANA")
    for node in nodes(load(name)):
        for model in node["properties"].get("models", []):
            assert f"({model['url']})" in notes[0]


@each_template
def test_a_chinese_editor_finds_every_text_of_a_template(name):
    words = json.loads((FOLDER.parent / "js" / "chinese.json").read_text("utf-8"))
    template = load(name)
    (note,) = [node["widgets_values"][0] for node in template["nodes"] if node["type"] == "MarkdownNote"]
    (subgraph,) = template["definitions"]["subgraphs"]
    slots = [*subgraph["inputs"], *subgraph["outputs"]]
    shown = [note, subgraph["name"], *(slot["label"] for slot in slots)]
    assert [text for text in shown if text not in words] == []
