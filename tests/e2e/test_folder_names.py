"""The pack under folder names that ComfyUI does not serve files for by itself, each beside a server of its own."""

import urllib.error
import urllib.request
from urllib.parse import quote

import pytest
from e2e.browser import closing_page, launched, needs_browser, open_editor
from e2e.server import PACK, Server

NAMES = ("sana-native (1)", "sana-\u043a\u0430\u0440\u0442\u0438\u043d\u0430", "sana-native-0.1.0", "sana@2 b.c")
QUICK_START = "workflow_templates/{}/SANA-quick-start"


@pytest.fixture
def serve(runnable, tmp_path):
    """Start a server with the pack in a folder of a name."""
    started = []

    def start(name):
        (tmp_path / "packs").mkdir()
        (tmp_path / "packs" / name).symlink_to(PACK, target_is_directory=True)
        started.append(Server(*runnable, tmp_path, pack=tmp_path / "packs" / name))
        return started[0]

    yield start
    for server in started:
        server.stop()


def status(server, path):
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{server.port}/{path}", timeout=60).status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_templates_scripts_and_help_are_found(serve, name):
    server = serve(name)
    module = server.get("/object_info")["SanaNativeGenerate"]["python_module"]
    asked_for_help = module.split(".")[1].split("@")[0]  # as the editor does
    for path in (
        *(path.lstrip("/") for path in server.get("/extensions") if path.endswith("/sana.js")),
        f"api/{QUICK_START.format(quote(name))}.json",
        f"api/{QUICK_START.format(quote(name))}.jpg",
        f"extensions/{quote(asked_for_help)}/docs/SanaNativeGenerate/en.md",
        f"extensions/{quote(asked_for_help)}/docs/SanaNativeGenerate.md",
    ):
        assert status(server, path) == 200, path
    for path in ("../__init__.py", "%2e%2e/__init__.py", "absent.js", "docs"):
        assert status(server, f"extensions/{quote(name)}/{path}") in (403, 404)
    assert "rename the folder" not in server.output()


@pytest.mark.slow
def test_a_name_that_cannot_work_is_said_once(serve):
    server = serve("sana#1")
    assert server.output().count("rename the folder to sana-native") == 1


@pytest.mark.slow
@needs_browser
def test_a_second_download_opens_its_templates(serve):
    server = serve("sana-native (1)")
    with launched() as chromium, closing_page(chromium) as page:
        open_editor(page, server)
        page.evaluate("app.extensionManager.command.execute('Comfy.BrowseTemplates')")
        page.get_by_text("sana-native (1)").first.click()
        card = page.get_by_test_id("template-workflow-SANA-quick-start")
        card.scroll_into_view_if_needed()
        card.click()
        page.wait_for_function("app.rootGraph.nodes.some(node => node.isSubgraphNode())")
