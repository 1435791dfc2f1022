"""Make the packaged templates in ComfyUI's own editor: `python tools/templates/build.py [--shots] [name ...]`.

Needs what the editor tests need (ComfyUI, Playwright, Chromium; see CONTRIBUTING.md). Each template of graphs.py is
built in the running editor, saved as workflows/<name>.json, opened again, and exported for the API as
tests/workflows/prompts/<name>.json. One subgraph is also saved for the node library, in subgraphs/.
--shots: a screenshot of each in the current folder, to look at.
"""

from __future__ import annotations

import json
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # the server and the browser are those of the tests

from e2e.browser import closing_page, launched, open_editor  # noqa: E402
from graph import Template  # noqa: E402
from graphs import TEMPLATES  # noqa: E402
from note import FOLDER, note  # noqa: E402
from workflows.installed import serve  # noqa: E402

EDITOR = Path(__file__).with_name("editor.js").read_text("utf-8")
REOPEN = """async (workflow) => {
    await app.loadGraphData(workflow, true, true);
    await new Promise((resolve) => setTimeout(resolve, 1500));
    const { workflow: saved, output } = await app.graphToPrompt();
    return [saved, output];
}"""


NOT_READ = ("definitions", "floatingLinks")  # written as null where there are none, which some readers do not expect
BLUEPRINT = "SANA-1.6B-text-to-image-1024"  # the template whose subgraph is offered in the node library
IN_LIBRARY = {
    "category": "Image generation and editing/Text to image",  # where ComfyUI's own ones are
    "description": "Generates an image from a prompt with SANA 1.6B, 1024 px.",
}
ALIASES = ["sana", "text to image", "txt2img", "nvidia sana"]


def write(path: Path, content: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")


def finished(template: Template, workflow: dict[str, Any]) -> dict[str, Any]:
    """A saved workflow as it is packaged: the same at each build, and as a form if the template is one."""
    workflow = {key: value for key, value in workflow.items() if key not in NOT_READ or value is not None}
    (subgraph,) = workflow["definitions"]["subgraphs"]
    (host,) = [node for node in workflow["nodes"] if node["type"] == subgraph["id"]]
    if template.form:
        (shown,) = [node for node in workflow["nodes"] if node["type"] == "SaveImage"]
        fields = [[str(host["id"]), label] for label in template.form]
        workflow["extra"] |= {"linearMode": True, "linearData": {"inputs": fields, "outputs": [str(shown["id"])]}}
    text, ids = json.dumps(workflow, ensure_ascii=False), [workflow["id"], *_ids(workflow)]
    for number, made in enumerate(dict.fromkeys(ids)):
        text = text.replace(made, str(uuid.uuid5(uuid.NAMESPACE_URL, f"sana-native/{template.name}/{number}")))
    return json.loads(text)


def _ids(content: Any) -> Iterator[str]:
    """The ids of subgraphs and of their inputs and outputs."""
    for subgraph in content["definitions"]["subgraphs"]:
        yield from (subgraph["id"], *(slot["id"] for slot in (*subgraph["inputs"], *subgraph["outputs"])))


def blueprint(workflow: dict[str, Any]) -> dict[str, Any]:
    """The subgraph of a template alone, for the node library."""
    (subgraph,) = workflow["definitions"]["subgraphs"]
    (host,) = [node for node in workflow["nodes"] if node["type"] == subgraph["id"]]
    outputs = [{**slot, "links": []} for slot in host["outputs"]]
    return {
        **workflow,
        "nodes": [{**host, "outputs": outputs, "pos": [0, 0], "order": 0}],
        "links": [],
        "definitions": {"subgraphs": [{**subgraph, **IN_LIBRARY}]},
        "extra": {"BlueprintDescription": IN_LIBRARY["description"], "BlueprintSearchAliases": ALIASES},
    }


def chinese(templates: list[Template]) -> dict[str, str]:
    """What js/chinese.js puts in the place of English texts."""
    words = json.loads((FOLDER / "zh" / "words.json").read_text("utf-8"))
    return words | {note(t.name, t.files): note(t.name, t.files, "zh") for t in templates}


def main(names: list[str]) -> None:
    templates = [make() for make in TEMPLATES]
    write(ROOT / "js" / "chinese.json", chinese(templates))
    wide = {"width": 2400, "height": 1300}
    with (
        tempfile.TemporaryDirectory() as folder,
        serve(Path(folder)) as server,
        launched() as browser,
        closing_page(browser, viewport=wide) as page,
    ):
        open_editor(page, server)
        for template in (template for template in templates if not names or template.name in names):
            workflow = page.evaluate(EDITOR, template.described())
            for _ in range(2):  # sizes and order settle when a saved workflow is opened
                workflow, prompt = page.evaluate(REOPEN, workflow)
            workflow = finished(template, workflow)
            write(ROOT / "workflows" / f"{template.name}.json", workflow)
            if template.name == BLUEPRINT:
                write(ROOT / "subgraphs" / f"{template.subgraph}.json", blueprint(workflow))
            write(ROOT / "tests" / "workflows" / "prompts" / f"{template.name}.json", prompt)
            sys.stdout.write(f"{template.name}\n")
            if "--shots" in sys.argv:
                page.evaluate("app.extensionManager.command.execute('Comfy.Canvas.FitView')")
                page.wait_for_timeout(1500)
                page.screenshot(path=f"{template.name}.png")


if __name__ == "__main__":
    main([argument for argument in sys.argv[1:] if not argument.startswith("--")])
