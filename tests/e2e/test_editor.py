"""The pack in ComfyUI's editor: templates, help, Chinese, missing models, errors. Needs Playwright for Python and a Chromium.

CHROMIUM names the browser, else the first of the usual names on the PATH is taken.
"""

import contextlib
import json
import os
import re
import shutil

import pytest
from workflows.installed import NAME, RELEASED, ROOT, serve
from workflows.templates import NAMES, each_template, load, load_prompt, nodes

playwright = pytest.importorskip("playwright.sync_api", reason="the editor is tested with Playwright: pip install playwright")

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium found: install one, or name it in CHROMIUM")

FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"
UNREACHABLE = re.compile(r"https://(huggingface\.co|api\.comfy\.org)/")  # asked for file sizes and packs, and not there in a closed network
SECONDS = 1000
READY = "window.app?.extensionManager && window.app.graphToPrompt && window.app.rootGraph && window.LiteGraph"
LOADED = "types => types.every(type => app.rootGraph.nodes.some(node => node.type === type))"
UNKNOWN = "() => app.rootGraph.nodes.map(node => node.type).filter(type => !(type in LiteGraph.registered_node_types))"
PICTURE = "() => app.rootGraph.nodes.find(node => node.type === 'SaveImage').imgs?.[0]?.naturalWidth"
SELECTED = """type => {
    app.canvas.selectNode(app.rootGraph.nodes.find(node => node.type === type));  // again and again: the end of loading clears it
    return document.querySelector('[data-testid=info-button]');
}"""
QUICK_START = "SANA-quick-start"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    base = tmp_path_factory.mktemp("comfyui")
    settings = base / "user" / "default" / "comfy.settings.json"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps({"Comfy.TutorialCompleted": True}))  # else the template browser opens by itself
    with serve(base) as running:
        yield running


@pytest.fixture(scope="module")
def browser(server):
    with playwright.sync_playwright() as library:
        chromium = library.chromium.launch(executable_path=BROWSER, args=FLAGS.split())
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser):
    with closing_page(browser) as opened:
        yield opened


@contextlib.contextmanager
def closing_page(browser, **context):
    """A page of a fresh profile; at its end no error on its console may be about this pack."""
    with contextlib.closing(browser.new_context(viewport={"width": 1600, "height": 1000}, **context)) as profile:
        opened = profile.new_page()
        opened.set_default_timeout(60 * SECONDS)
        errors = []
        opened.on("pageerror", lambda error: errors.append(str(error)))
        opened.on("console", lambda message: message.type == "error" and errors.append(f"{message.text} {message.location['url']}"))
        yield opened
        assert [error for error in errors if "sana" in error.lower() and not UNREACHABLE.search(error)] == []


def open_editor(page, server, query=""):
    page.goto(f"http://127.0.0.1:{server.port}/{query}")
    page.wait_for_function(READY)


def open_template(page, server, name):
    open_editor(page, server, f"?template={name}&source={NAME}")
    page.wait_for_function(LOADED, arg=[node["type"] for node in load(name)["nodes"]])


def set_widget(page, node_type, widget, value):
    page.evaluate(
        "([type, name, value]) => { app.rootGraph.nodes.find(n => n.type === type).widgets.find(w => w.name === name).value = value; }",
        [node_type, widget, value],
    )


def test_the_template_browser_offers_every_template_with_its_picture(page, server):
    pictures = {}
    page.on("response", lambda response: pictures.update({response.url.rpartition("/")[2]: response.status}))
    open_editor(page, server)
    page.evaluate("app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    page.get_by_text("SANA (NVIDIA)").first.click()
    for name in NAMES:
        picture = page.get_by_test_id(f"template-workflow-{name}").locator("img").first.element_handle()
        page.wait_for_function("image => image.naturalWidth > 0 && image.naturalWidth === image.naturalHeight", arg=picture)
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
    assert page.evaluate(PICTURE) == 128


def test_an_error_of_the_pack_is_shown_in_full(page, server):
    open_template(page, server, QUICK_START)
    set_widget(page, "SanaNativeGenerate", "width", 100)
    page.get_by_test_id("queue-button").click()
    page.get_by_text("multiple of 32").first.wait_for()


def test_the_help_of_a_node_is_its_page(page, server):
    open_template(page, server, QUICK_START)
    page.wait_for_function(SELECTED, arg="SanaNativeGenerate")
    page.get_by_test_id("info-button").click()
    text = (ROOT / "js" / "docs" / "SanaNativeGenerate" / "en.md").read_text("utf-8")
    page.get_by_text(text.split("\n")[4]).wait_for()  # the second paragraph, which no tooltip has


def test_missing_models_are_offered_for_download(page, server):
    files = [name.partition("/")[2] for name in RELEASED]

    def without_files(route):
        infos = route.fetch().json()
        for kind, options in infos["SanaNativeLoad"]["input"]["required"].values():
            if kind == "COMBO":
                options["options"] = [option for option in options["options"] if option not in files]
        route.fulfill(json=infos)

    page.route("**/object_info", without_files)
    (name,) = (name for name in NAMES if any(node["properties"].get("models") for node in nodes(load(name))))
    open_template(page, server, name)
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
