"""Make the packaged templates in ComfyUI's own editor: `python tools/templates/build.py [--shots] [name ...]`.

Needs what the editor tests need (ComfyUI, Playwright, Chromium; see CONTRIBUTING.md). Each template of graphs.py is
built in the running editor, saved as workflows/<name>.json, opened again, and exported for the API as
tests/workflows/prompts/<name>.json.
--shots: a screenshot of each in the current folder, to look at.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # the server and the browser are those of the tests

from e2e.browser import closing_page, launched, open_editor  # noqa: E402
from graphs import TEMPLATES  # noqa: E402
from workflows.installed import serve  # noqa: E402

EDITOR = Path(__file__).with_name("editor.js").read_text("utf-8")
REOPEN = """async (workflow) => {
    await app.loadGraphData(workflow, true, true);
    await new Promise((resolve) => setTimeout(resolve, 1500));
    const { workflow: saved, output } = await app.graphToPrompt();
    return [saved, output];
}"""


NOT_READ = ("definitions", "floatingLinks")  # written as null where there are none, which some readers do not expect


def write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")


def main(names: list[str]) -> None:
    templates = [make() for make in TEMPLATES]
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
            workflow = {key: value for key, value in workflow.items() if key not in NOT_READ or value is not None}
            write(ROOT / "workflows" / f"{template.name}.json", workflow)
            write(ROOT / "tests" / "workflows" / "prompts" / f"{template.name}.json", prompt)
            sys.stdout.write(f"{template.name}\n")
            if "--shots" in sys.argv:
                page.evaluate("app.extensionManager.command.execute('Comfy.Canvas.FitView')")
                page.wait_for_timeout(1500)
                page.screenshot(path=f"{template.name}.png")


if __name__ == "__main__":
    main([argument for argument in sys.argv[1:] if not argument.startswith("--")])
