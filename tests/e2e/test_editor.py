"""The pack in ComfyUI's editor: templates, help, Chinese, missing models, errors. Needs Playwright for Python and a
Chromium.
"""

import io
import json

import pytest
from e2e.browser import SECONDS, UNKNOWN, closing_page, needs_browser, open_editor
from e2e.editor import INSIDE, RECTANGLES, SUBGRAPH, choose_renderer, open_template, set_on_subgraph
from PIL import Image
from workflows.installed import NAME, ROOT
from workflows.templates import NAMES, load, nodes

pytestmark = needs_browser

SELECTED = """type => {
    // again and again: the end of loading goes back to the root and clears the selection
    const host = app.rootGraph.nodes.find(node => node.isSubgraphNode());
    if (app.canvas.graph !== host.subgraph) app.canvas.openSubgraph(host.subgraph, host);
    app.canvas.selectNode(app.canvas.graph.nodes.find(node => node.type === type));
    return document.querySelector('[data-testid=info-button]');
}"""
PROMPT_NODE = """async () => {
    const node = LiteGraph.createNode('SanaNativeTextEncode');
    app.rootGraph.add(node);
    node.pos = [300, 200];
    node.widgets.find(widget => widget.name === 'text').value = 'a red apple';
    node.widgets.find(widget => widget.name === 'instruction').value = 'none';
    node.setSize([420, 260]);
    return (await app.graphToPrompt()).workflow;
}"""
ADDED = """async () => {
    for (const [type, x] of [['SanaNativeGenerate', 200], ['KSampler', 700]]) {
        const node = LiteGraph.createNode(type);
        app.rootGraph.add(node);
        node.pos = [x, 150];
    }
    return (await app.graphToPrompt()).workflow;
}"""
BOX_HEIGHT = (
    "() => [...document.querySelectorAll('textarea')].find(box => box.value === 'a red apple')?.offsetHeight ?? 0"
)
QUICK_START, CONTROLNET, LORA = "SANA-quick-start", "SANA-ControlNet", "SANA-LoRA"


@pytest.fixture(scope="module")
def server(packaged):
    return packaged


@pytest.fixture
def page(browser):
    with closing_page(browser) as opened:
        yield opened


def test_the_template_browser_offers_every_template_with_its_picture(page, server):
    pictures = {}
    page.on("response", lambda response: pictures.update({response.url.rpartition("/")[2]: response.status}))
    open_editor(page, server)
    page.evaluate("app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    page.get_by_text("SANA", exact=True).first.click()
    cards = page.locator("[data-testid^='template-workflow-SANA']")
    for _ in NAMES:  # the browser adds a few whenever the last one is seen
        cards.last.scroll_into_view_if_needed()
        page.wait_for_timeout(0.1 * SECONDS)
    for name in NAMES:
        card = page.get_by_test_id(f"template-workflow-{name}")
        card.scroll_into_view_if_needed()
        picture = card.locator("img").first.element_handle()
        page.wait_for_function(
            "image => image.naturalWidth > 0 && image.naturalWidth === image.naturalHeight", arg=picture
        )
        assert pictures[f"{name}.jpg"] == 200
    assert cards.first.get_attribute("data-testid") == f"template-workflow-{QUICK_START}"
    page.get_by_test_id(f"template-workflow-{QUICK_START}").click()
    page.wait_for_function(f"() => {SUBGRAPH}")
    assert page.evaluate(UNKNOWN) == []


def test_an_error_of_the_pack_is_shown_in_full_below_the_hosts(page, server):
    open_template(page, server, LORA)
    set_on_subgraph(page, "LoRA", "sana_nano_style.safetensors")
    page.get_by_test_id("queue-button").click()
    ours = page.locator(".sana-error").first
    ours.wait_for()
    assert "this LoRA was trained on a model with" in ours.inner_text() and "/" not in ours.inner_text()
    page.wait_for_timeout(1 * SECONDS)  # both move into place
    theirs = page.get_by_test_id("error-overlay-see-errors").bounding_box()
    assert ours.bounding_box()["y"] > theirs["y"] + theirs["height"]


@pytest.mark.parametrize("vue", [False, True], ids=["canvas", "Nodes 2.0"])
def test_the_prompt_box_keeps_its_height_when_a_workflow_is_opened(page, server, vue):
    open_editor(page, server)
    choose_renderer(page, vue)
    page.evaluate("() => app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
    saved = page.evaluate(PROMPT_NODE)
    for _ in range(2):  # opened, saved and opened again
        page.evaluate("workflow => app.loadGraphData(workflow, true, true)", saved)
        page.wait_for_function(f"() => ({BOX_HEIGHT})() > 80")  # pixels, of a node of 260
        saved = page.evaluate("() => app.graphToPrompt().then(prompt => prompt.workflow)")
        (node,) = saved["nodes"]
        assert node["size"][1] >= 260 and node["widgets_values"] == ["a red apple", "none", False]
    choose_renderer(page, False)


def test_the_help_of_a_node_is_its_page(page, server):
    open_template(page, server, QUICK_START)
    page.wait_for_function(SELECTED, arg="SanaNativeGenerate")
    page.get_by_test_id("info-button").click()
    text = (ROOT / "js" / "docs" / "SanaNativeGenerate" / "en.md").read_text("utf-8")
    said = text.split("\n")[2].partition("*")[0].strip()  # of the first paragraph, up to its first node's name
    page.get_by_text(said).last.wait_for()


def test_missing_models_are_offered_for_download(page, server):
    files = [model["name"] for node in nodes(load(CONTROLNET)) for model in node["properties"].get("models", [])]
    assert len(files) == 4

    def without_files(route):
        infos = route.fetch().json()
        for node in ("SanaNativeLoad", "SanaNativeLoadControlNet"):
            for kind, options in infos[node]["input"]["required"].values():
                if kind == "COMBO":
                    options["options"] = [option for option in options["options"] if option not in files]
        route.fulfill(json=infos)

    page.route("**/object_info", without_files)
    open_template(page, server, CONTROLNET)
    page.get_by_test_id("error-overlay-see-errors").click()
    for file in files:
        page.get_by_text(file).first.wait_for()
    page.get_by_text("Download all").first.wait_for()


def test_a_chinese_browser_shows_chinese(browser, server):
    with closing_page(browser, locale="zh-CN") as page:
        open_editor(page, server, f"?template={QUICK_START}&source={NAME}")
        words = json.loads((ROOT / "js" / "chinese.json").read_text("utf-8"))
        page.wait_for_function(f"title => {SUBGRAPH}?.title === title", arg=words["Text to Image (Sana-nano)"])
        for text in ("prompt", "seed"):
            page.wait_for_function(f"label => {SUBGRAPH}.inputs.some(slot => slot.label === label)", arg=words[text])
        note = page.evaluate("() => app.rootGraph.nodes.find(node => node.type === 'MarkdownNote').widgets[0].value")
        assert note in words.values() and note not in words
        page.evaluate(INSIDE)
        chinese = json.loads((ROOT / "locales" / "zh" / "nodeDefs.json").read_text("utf-8"))["SanaNativeGenerate"]
        title, labels = page.evaluate(
            """() => {
                const node = app.canvas.graph.nodes.find(node => node.type === 'SanaNativeGenerate');
                return [node.title, Object.fromEntries(node.inputs.map(slot => [slot.name, slot.localized_name]))];
            }"""
        )
        assert title == chinese["display_name"]
        assert labels["prompt"] == chinese["inputs"]["prompt"]["name"]
        assert labels["negative_prompt"] == chinese["inputs"]["negative_prompt"]["name"]


def test_a_note_that_someone_has_changed_stays(browser, server):
    with closing_page(browser, locale="zh-CN") as page:
        open_editor(page, server)
        page.evaluate(
            """async workflow => {
                workflow.nodes.find(node => node.type === 'MarkdownNote').widgets_values = ['## SANA, my own words'];
                await app.loadGraphData(workflow, true, true);
            }""",
            load(QUICK_START),
        )
        page.wait_for_timeout(1 * SECONDS)
        note, title = page.evaluate(
            f"() => [app.rootGraph.nodes.find(node => node.type === 'MarkdownNote').widgets[0].value, {SUBGRAPH}.title]"
        )
        assert (note, title) == ("## SANA, my own words", "Text to Image (Sana-nano)")


def test_the_form_shows_its_fields_and_draws(page, server):
    open_editor(page, server, f"?template=SANA-text-to-image.app&source={NAME}")
    page.get_by_text("Skip", exact=True).click()  # ComfyUI's own introduction to apps
    for label in ("prompt", "aspect ratio", "seed"):
        page.get_by_text(label, exact=True).first.wait_for()
    page.get_by_role("button", name="Run", exact=True).last.click()
    page.wait_for_function(
        "() => [...document.querySelectorAll('img')].some(image => image.src.includes('filename=SANA_'))"
    )


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("sana", ["SANA Generate", "Load SANA"]),
        ("text to image", ["Text to Image", "Text to Image (SANA)"]),
        ("gemma", ["Load SANA Text Encoder (Gemma)"]),
    ],
)
def test_the_best_known_nodes_are_found_first(page, server, words, found):
    """ComfyUI has a subgraph that is called exactly "Text to Image"."""
    open_editor(page, server)
    page.evaluate("() => app.extensionManager.command.execute('Workspace.SearchBox.Toggle')")
    page.locator("input:visible").last.fill(words)
    results = page.get_by_test_id("result-item")
    page.wait_for_function(
        "title => document.querySelector('[data-testid=result-item]')?.innerText.startsWith(title)", arg=found[0]
    )
    assert [results.nth(index).inner_text().split("\n")[0] for index in range(len(found))] == found


@pytest.mark.parametrize("vue", [False, True], ids=["canvas", "Nodes 2.0"])
def test_nodes_have_a_colour_until_someone_takes_it_away(page, server, vue):
    open_editor(page, server)
    choose_renderer(page, vue)
    page.evaluate("() => app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
    saved = page.evaluate(ADDED)
    page.wait_for_timeout(0.5 * SECONDS)
    screen = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    ours, stock = (
        screen.getpixel((round(right - 40), round(top + 12))) for _, _, top, right, _ in page.evaluate(RECTANGLES)
    )
    assert ours[2] > ours[0] + 10 and abs(stock[2] - stock[0]) < 10  # bluish, grey
    del saved["nodes"][0]["color"], saved["nodes"][0]["bgcolor"]
    page.evaluate("workflow => app.loadGraphData(workflow, true, true)", saved)
    assert page.evaluate("() => app.rootGraph.nodes.map(node => node.color ?? null)") == [None, None]
    choose_renderer(page, False)
