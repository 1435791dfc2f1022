"""Run every template by mouse: `python tools/templates/run_all.py FOLDER [name ...]`.

Each template is opened from the template browser and run by the button Run, in the classic canvas and in Nodes 2.0, in
English on a screen of 1366 x 768 and in Chinese on one of 1920 x 1080, with the embedded models or tiny ones under the
released names. Nothing may overlap, letters have to be readable, and the picture has to appear on the screen. FOLDER
gets a screenshot before and one after each run, to be looked at. The exit code is 1 if something went wrong. Needs what
the editor tests need (see CONTRIBUTING.md); takes about half an hour.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # the server and the browser are those of the tests

from e2e.browser import closing_page, launched, open_editor  # noqa: E402
from e2e.editor import LETTERS, PICTURE, choose_renderer, overlaps  # noqa: E402
from workflows.installed import serve  # noqa: E402
from workflows.templates import NAMES, load  # noqa: E402

from sana_core.cli.output import say  # noqa: E402

LANGUAGES = {  # with a laptop's screen and a desk's
    "en": {"locale": "en-US", "viewport": {"width": 1366, "height": 768}},
    "zh": {"locale": "zh-CN", "viewport": {"width": 1920, "height": 1080}},
}
RENDERERS = {"canvas": False, "nodes2": True}
LETTERS_LEAST = 8  # pixels
LONGEST = 300_000  # milliseconds that a run may take
FORM = ".app"  # at the end of a template that opens as a form


def click_template(page: Any, name: str) -> None:
    page.evaluate("() => app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    page.get_by_text("SANA", exact=True).first.click()
    cards = page.locator("[data-testid^='template-workflow-SANA']")
    card = page.get_by_test_id(f"template-workflow-{name}")
    cards.first.wait_for()
    while not card.count():  # the browser adds a few whenever the last one is seen
        cards.last.scroll_into_view_if_needed()
        page.wait_for_timeout(100)
    card.click()
    page.wait_for_function("count => app.rootGraph.nodes.length === count", arg=len(load(name)["nodes"]))
    page.wait_for_timeout(1500)  # the view moves


def run(page: Any, name: str, shot: Path) -> str:
    """What went wrong, or nothing."""
    click_template(page, name)
    form = name.endswith(FORM)
    found = [] if form else [*overlaps(page), *small_letters(page)]
    page.screenshot(path=shot.with_name(f"{shot.name}-opened.png"))
    if form:
        page.keyboard.press("Escape")  # ComfyUI's own introduction to apps
        page.get_by_test_id("linear-run-button-icon").click()
    else:
        page.get_by_test_id("queue-button").click()
    page.wait_for_function(PICTURE, timeout=LONGEST)
    page.wait_for_timeout(1000)
    page.screenshot(path=shot.with_name(f"{shot.name}-drawn.png"))
    return f"overlaps or small letters: {found}" if found else ""


def small_letters(page: Any) -> list[Any]:
    """Text boxes whose letters cannot be read."""
    return [box for box in page.evaluate(LETTERS) if box["letters"] < LETTERS_LEAST]


def main(argv: list[str]) -> int:
    if not argv:
        sys.exit(__doc__)
    folder, names = Path(argv[0]), argv[1:] or NAMES
    folder.mkdir(parents=True, exist_ok=True)
    failed = 0
    with tempfile.TemporaryDirectory() as base, serve(Path(base)) as server, launched() as chromium:
        for (renderer, vue), (language, profile) in itertools.product(RENDERERS.items(), LANGUAGES.items()):
            for name in names:
                started = time.monotonic()
                try:
                    with closing_page(chromium, **profile) as page:
                        open_editor(page, server)
                        choose_renderer(page, vue)
                        wrong = run(page, name, folder / f"{name}-{renderer}-{language}")
                except Exception as error:  # the next template is to be tried whatever happened to this one
                    wrong = f"{type(error).__name__}: {error}".split("\n")[0]
                failed += bool(wrong)
                seconds = time.monotonic() - started
                say(f"{name:44}{renderer:8}{language:4}{seconds:6.1f} s  {wrong or 'drawn'}")
    say(f"{len(names) * len(RENDERERS) * len(LANGUAGES)} runs, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
