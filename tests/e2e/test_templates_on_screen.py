"""What a person sees of the templates, in the classic canvas and in Nodes 2.0. Needs Playwright and a Chromium."""

import itertools

import pytest
from e2e.browser import UNKNOWN, closing_page, needs_browser
from e2e.editor import INSIDE, LETTERS, PICTURE, SUBGRAPH, choose_renderer, open_template, overlaps, set_on_subgraph
from workflows.templates import NAMES, load, load_prompt

pytestmark = needs_browser
QUICK_STARTS = [name for name in NAMES if name.startswith("SANA-quick-start")]
FORM = "SANA-text-to-image.app"
GRAPHS = [name for name in NAMES if name != FORM]
LEAST = 8  # height of letters in pixels that can be read
WORDS = f"() => {SUBGRAPH}.widgets.find(widget => widget.name === '$$node-text-preview')?.value ?? ''"
PREVIEWED = "() => Object.keys(app.nodePreviewImages).length > 0"
LEFT_OVER = f"""() => Object.keys(app.nodePreviewImages).length || {SUBGRAPH}.imgs?.length
    || {SUBGRAPH}.widgets.some(widget => widget.name === 'sana_preview')
    || [...document.querySelectorAll('img')].some(image => image.src.startsWith('blob:') && image.offsetParent)"""

BEST, BYPASSED = "node => node.type === 'SanaNativeBestOf'", 4
LATE = 2000  # milliseconds
SEEDS = itertools.count(1000)  # another for each run: the server draws nothing that it has drawn
LOAD_LATE = f"""() => {{
    window.loadedLate = 0;
    const late = (image, heard) => event => image.src.startsWith('blob:')
        ? setTimeout(() => {{ window.loadedLate++; heard.call(image, event); }}, {LATE}) : heard.call(image, event);
    const listen = HTMLImageElement.prototype.addEventListener;
    HTMLImageElement.prototype.addEventListener = function(name, heard, ...more) {{
        listen.call(this, name, name === 'load' ? late(this, heard) : heard, ...more);
    }};
    Object.defineProperty(HTMLImageElement.prototype, 'onload', {{
        set(heard) {{ listen.call(this, 'load', late(this, heard)); }}
    }});
}}"""
"""Pictures of previews say that they are loaded when their run is over."""


@pytest.fixture(scope="module")
def server(packaged):
    return packaged


@pytest.fixture(scope="module", params=[False, True], ids=["canvas", "Nodes 2.0"])
def page(browser, server, request):
    """A laptop's screen, in one of the two renderers."""
    with closing_page(browser, viewport={"width": 1366, "height": 768}) as opened:
        open_template(opened, server, QUICK_STARTS[0])
        choose_renderer(opened, request.param)
        yield opened
        choose_renderer(opened, False)


@pytest.mark.parametrize("name", GRAPHS)
def test_a_template_opens_tidy_and_readable(page, server, name):
    open_template(page, server, name)
    page.wait_for_function(f"() => ({LETTERS})().length > 0")
    page.wait_for_timeout(500)  # the view moves
    assert page.evaluate(UNKNOWN) == []
    assert overlaps(page) == []
    prompt = next(box for box in page.evaluate(LETTERS) if box["text"] == load_texts(name))
    assert prompt["letters"] >= LEAST and prompt["height"] >= 90 and prompt["width"] >= 250
    assert page.evaluate("() => app.graphToPrompt().then(prompt => prompt.output)") == load_prompt(name)
    page.evaluate(INSIDE)
    page.wait_for_timeout(700)
    assert overlaps(page) == []


def load_texts(name):
    """The prompt on the subgraph of a template."""
    (subgraph,) = load(name)["definitions"]["subgraphs"]
    (node,) = [node for node in load(name)["nodes"] if node["type"] == subgraph["id"]]
    return node["widgets_values"][0]


@pytest.mark.parametrize("name", QUICK_STARTS)
def test_a_quick_start_draws_at_the_press_of_run(page, server, name):
    """With a preview and words on the way, neither of which hides the picture at the end."""
    open_template(page, server, name)
    page.evaluate("() => app.extensionManager.setting.set('Comfy.Execution.PreviewMethod', 'latent2rgb')")
    page.get_by_test_id("queue-button").click()
    page.wait_for_function(PREVIEWED)
    page.wait_for_function(PICTURE)
    page.wait_for_function(f"() => !({LEFT_OVER})()")
    assert "steps in 0:" in page.evaluate(WORDS)


def test_without_a_scorer_all_candidates_are_saved(page, server):
    """As the note says: SANA Best Of N inside is bypassed."""
    open_template(page, server, "SANA-best-of-N")
    page.evaluate(f"() => {{ {SUBGRAPH}.subgraph.nodes.find({BEST}).mode = {BYPASSED}; }}")
    prompt = page.evaluate("() => app.graphToPrompt().then(prompt => prompt.output)")
    for node in prompt.values():
        if "sampling.steps" in node["inputs"]:
            node["inputs"] |= {"sampling.steps": 1, "seed": next(SEEDS)}
        if node["class_type"] == "SanaNativeLoadScorer":
            node["inputs"]["scorer"] = "clip: not there"
    (save,) = [key for key, node in prompt.items() if node["class_type"] == "SaveImage"]
    assert len(server.run(prompt)[save]["images"]) == 4


def test_a_preview_that_is_loaded_late_does_not_come_back(page, server):
    """On a slow machine the picture of a preview may be ready after the run's end."""
    open_template(page, server, "SANA-1.6B-text-to-image-1024")
    page.evaluate(LOAD_LATE)
    set_on_subgraph(page, "seed", next(SEEDS))
    page.get_by_test_id("queue-button").click()
    page.wait_for_function(PICTURE)
    page.wait_for_timeout(2 * LATE)
    assert page.evaluate("window.loadedLate") > 0
    assert not page.evaluate(LEFT_OVER)


def test_a_cancelled_run_leaves_no_preview(page, server):
    open_template(page, server, "SANA-1.6B-text-to-image-1024")
    set_on_subgraph(page, "seed", next(SEEDS))
    page.get_by_test_id("queue-button").click()
    page.wait_for_function(PREVIEWED)
    page.evaluate("() => fetch('/interrupt', { method: 'POST' })")
    page.wait_for_function(f"() => !({LEFT_OVER})()")
