"""The templates as files: what the editor, the template browser and the missing-model panel read from them."""

import re

from workflows.templates import FOLDER, NAMES, PROMPTS, each_template, link_sources, load, load_prompt, nodes

from sana_core.presets import AUTOENCODERS, CONTROLNETS, RELEASES, TEXT_ENCODER

PUBLISHED = {part.url: part for part in (*RELEASES, *CONTROLNETS, *AUTOENCODERS, TEXT_ENCODER)}
OF_THE_USER = [
    "my_sana_lora.safetensors",
    "example.png",
]  # a name that stands for the user's file; the picture that ComfyUI brings
FILE = re.compile(r".+\.(safetensors|pth|png)")
EDITOR_ALONE = ("control_after_generate", "upload")  # widgets that no node knows
TITLE_BAR = 30  # above `pos` of a node


def test_every_template_has_a_picture_and_an_api_twin_and_nothing_else_is_there():
    assert NAMES and all(
        re.fullmatch(r"[a-zA-Z0-9_.-]+", name) for name in NAMES
    )  # a deep link takes no other characters
    assert sorted(path.name for path in FOLDER.iterdir()) == sorted(
        name + end for name in NAMES for end in (".json", ".jpg")
    )
    assert sorted(path.name for path in PROMPTS.iterdir()) == sorted(f"{name}.json" for name in NAMES)


@each_template
def test_the_api_twin_says_what_the_template_says(name):
    template, prompt = load(name), load_prompt(name)
    sources = link_sources(template)
    expected = {}
    for node in nodes(template):
        links = {slot["name"]: sources[slot["link"]] for slot in node.get("inputs", []) if slot["link"] is not None}
        widgets = {key: value for key, value in node.get("widgets_values_named", {}).items() if key not in EDITOR_ALONE}
        expected[str(node["id"])] = (node["type"], {**widgets, **links})
    assert {key: (node["class_type"], node["inputs"]) for key, node in prompt.items()} == expected


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
                part.file_name,
                part.directory,
            )  # the browser saves it under this name
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
