"""Every node, input and output has a tooltip, a help page and an entry in the locales, and these name nothing else."""

import json
import re
import urllib.request

import pytest
from workflows.installed import NAME, ROOT

DOCS, LOCALES = ROOT / "js" / "docs", ROOT / "locales"
UNSAFE = re.compile(r"[|{}@]")  # vue-i18n's own syntax


def inputs(info):
    """{name: options} of a node's inputs, those that a choice reveals as "choice.name"."""
    found = {}
    for group in ("required", "optional"):
        for name, (kind, options) in info["input"].get(group, {}).items():
            found[name] = options
            for choice in options["options"] if kind == "COMFY_DYNAMICCOMBO_V3" else []:
                found |= {f"{name}.{inner}": given for inner, given in inputs({"input": choice["inputs"]}).items()}
    return found


def labels(info):
    """{key in the locales: name shown} of the inputs."""
    return {name.replace(".", "_"): name.rpartition(".")[2] for name in inputs(info)}


def bold_items(page, heading):
    """Words in bold that begin the items below a heading."""
    section = page.split(f"## {heading}\n", 1)[1].split("\n## ")[0]
    starts = [line.split(":")[0].split("\uff1a")[0] for line in section.splitlines() if line.startswith("- **")]
    return {word for start in starts for word in re.findall(r"\*\*(.+?)\*\*", start)}


@pytest.fixture(scope="session")
def chinese():
    return json.loads((LOCALES / "zh" / "nodeDefs.json").read_text("utf-8"))


def test_every_part_of_a_node_has_a_tooltip(node_infos):
    for info in node_infos.values():
        assert info["description"] and all(info["output_tooltips"])
        assert [name for name, options in inputs(info).items() if not options.get("tooltip")] == []


def test_there_are_help_pages_for_these_nodes_and_no_others(node_infos):
    pages = [path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")]
    assert sorted(pages) == sorted(
        page for name in node_infos for page in (f"{name}.md", f"{name}/en.md", f"{name}/zh.md")
    )
    for name in node_infos:
        assert (DOCS / f"{name}.md").read_bytes() == (DOCS / name / "en.md").read_bytes()


def test_an_english_help_page_names_the_node_its_inputs_and_outputs(node_infos):
    for name, info in node_infos.items():
        page = (DOCS / name / "en.md").read_text("utf-8")
        assert page.startswith(f"# {info['display_name']}\n")
        assert bold_items(page, "Inputs") | nested(page) == set(labels(info).values())
        assert bold_items(page, "Outputs") == set(info["output_name"])


def test_a_chinese_help_page_uses_the_labels_that_the_editor_shows(node_infos, chinese):
    for name, info in node_infos.items():
        page, entry = (DOCS / name / "zh.md").read_text("utf-8"), chinese[name]
        shown = {entry["inputs"][key]["name"] for key in labels(info)}
        outputs = {entry["outputs"][str(index)].get("name", given) for index, given in enumerate(info["output_name"])}
        assert page.startswith(f"# {entry['display_name']}\n")
        assert bold_items(page, "\u8f93\u5165") | nested(page) == shown
        assert bold_items(page, "\u8f93\u51fa") == outputs


def nested(page):
    """Inputs that a choice reveals, named inside the item of that choice."""
    return {
        word for line in page.splitlines() if line.startswith("  - ") for word in re.findall(r"\*\*(.+?)\*\*", line)
    }


def test_the_chinese_locale_covers_these_nodes_and_no_others(node_infos, chinese):
    assert set(chinese) == set(node_infos)
    for name, info in node_infos.items():
        entry = chinese[name]
        assert entry["display_name"] and entry["description"]
        assert set(entry["inputs"]) == set(labels(info))
        assert all(given["name"] and given["tooltip"] for given in entry["inputs"].values())
        assert set(entry["outputs"]) == {str(index) for index in range(len(info["output"]))}
        assert all(output["tooltip"] for output in entry["outputs"].values())


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_template_folder_and_the_node_category_have_a_name(node_infos, language):
    main = json.loads((LOCALES / language / "main.json").read_text("utf-8"))
    project = re.search(r'^name = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    assert set(main["templateWorkflows"]["category"]) == {project}
    assert set(main["nodeCategories"]) == {word for info in node_infos.values() for word in info["category"].split("/")}


def test_locale_strings_have_no_characters_with_a_meaning_to_the_editor():
    def strings(value):
        return [value] if isinstance(value, str) else [text for inner in value.values() for text in strings(inner)]

    for path in LOCALES.rglob("*.json"):
        assert [text for text in strings(json.loads(path.read_text("utf-8"))) if UNSAFE.search(text)] == []


def test_comfyui_serves_the_help_and_the_locales(server, node_infos):
    for name in node_infos:
        address = f"http://127.0.0.1:{server.port}/extensions/{NAME}/docs/{name}/en.md"
        with urllib.request.urlopen(address, timeout=30) as page:
            assert page.read() == (DOCS / name / "en.md").read_bytes()
    assert set(node_infos) <= set(server.get("/i18n")["zh"]["nodeDefs"])
