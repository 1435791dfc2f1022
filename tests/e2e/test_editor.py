"""The pack in ComfyUI's editor: templates, help, Chinese, missing models, errors. Needs Playwright for Python and a
Chromium.
"""

import json

import pytest
from e2e.browser import SECONDS, UNKNOWN, closing_page, launched, needs_browser, open_editor
from workflows.installed import NAME, ROOT, serve
from workflows.templates import NAMES, each_template, load, load_prompt, nodes

pytestmark = needs_browser

LOADED = "types => types.every(type => app.rootGraph.nodes.some(node => node.type === type))"
PICTURE = "() => app.rootGraph.nodes.find(node => node.type === 'SaveImage').imgs?.[0]?.naturalWidth"
SELECTED = """type => {
    // again and again: the end of loading clears the selection
    app.canvas.selectNode(app.rootGraph.nodes.find(node => node.type === type));
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
BOX_HEIGHT = (
    "() => [...document.querySelectorAll('textarea')].find(box => box.value === 'a red apple')?.offsetHeight ?? 0"
)
QUICK_START, CONTROLNET = "SANA-quick-start", "SANA-ControlNet"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serve(tmp_path_factory.mktemp("comfyui")) as running:
        yield running


@pytest.fixture(scope="module")
def browser(server):
    with launched() as chromium:
        yield chromium


@pytest.fixture
def page(browser):
    with closing_page(browser) as opened:
        yield opened


def open_template(page, server, name):
    open_editor(page, server, f"?template={name}&source={NAME}")
    page.wait_for_function(LOADED, arg=[node["type"] for node in load(name)["nodes"]])


def set_widget(page, node_type, widget, value):
    page.evaluate(
        "([type, name, value]) => { app.rootGraph.nodes.find(n => n.type === type).widgets.find(w => w.name === "
        "name).value = value; }",
        [node_type, widget, value],
    )


def test_the_template_browser_offers_every_template_with_its_picture(page, server):
    pictures = {}
    page.on("response", lambda response: pictures.update({response.url.rpartition("/")[2]: response.status}))
    open_editor(page, server)
    page.evaluate("app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    page.get_by_text("SANA").first.click()
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
    page.get_by_test_id(f"template-workflow-{QUICK_START}").click()
    page.wait_for_function(LOADED, arg=["SanaNativeGenerate"])


@each_template
def test_a_template_opens_complete_and_becomes_its_api_twin(page, server, name):
    open_template(page, server, name)
    assert page.evaluate(UNKNOWN) == []
    assert page.evaluate("() => app.graphToPrompt().then(prompt => prompt.output)") == load_prompt(name)


def test_the_quick_start_draws_at_the_press_of_run(page, server):
    open_template(page, server, QUICK_START)
    page.get_by_test_id("queue-button").click()
    page.wait_for_function(PICTURE)
    assert page.evaluate(PICTURE) == 256


def test_an_error_of_the_pack_is_shown_in_full(page, server):
    open_template(page, server, QUICK_START)
    set_widget(page, "SanaNativeGenerate", "width", 100)
    page.get_by_test_id("queue-button").click()
    page.get_by_text("multiple of 32").first.wait_for()


@pytest.mark.parametrize("vue", [False, True], ids=["canvas", "Nodes 2.0"])
def test_the_prompt_box_keeps_its_height_when_a_workflow_is_opened(page, server, vue):
    open_editor(page, server)
    page.evaluate("on => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)", vue)
    page.evaluate("() => app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
    saved = page.evaluate(PROMPT_NODE)
    for _ in range(2):  # opened, saved and opened again
        page.evaluate("workflow => app.loadGraphData(workflow, true, true)", saved)
        page.wait_for_function(f"() => ({BOX_HEIGHT})() > 80")  # pixels, of a node of 260
        saved = page.evaluate("() => app.graphToPrompt().then(prompt => prompt.workflow)")
        (node,) = saved["nodes"]
        assert node["size"][1] >= 260 and node["widgets_values"] == ["a red apple", "none", False]
    page.evaluate("() => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', false)")  # the server remembers it


def test_the_help_of_a_node_is_its_page(page, server):
    open_template(page, server, QUICK_START)
    page.wait_for_function(SELECTED, arg="SanaNativeGenerate")
    page.get_by_test_id("info-button").click()
    text = (ROOT / "js" / "docs" / "SanaNativeGenerate" / "en.md").read_text("utf-8")
    page.get_by_text(text.split("\n")[4]).wait_for()  # the second paragraph, which no tooltip has


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
        open_template(page, server, QUICK_START)
        chinese = json.loads((ROOT / "locales" / "zh" / "nodeDefs.json").read_text("utf-8"))["SanaNativeGenerate"]
        title, labels = page.evaluate(
            """() => {
                const node = app.rootGraph.nodes.find(node => node.type === 'SanaNativeGenerate');
                return [node.title, Object.fromEntries(node.inputs.map(slot => [slot.name, slot.localized_name]))];
            }"""
        )
        assert title == chinese["display_name"]
        assert labels == {name: entry["name"] for name, entry in chinese["inputs"].items()}
