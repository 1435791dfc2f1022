"""A Chromium driven by Playwright for Python, and ComfyUI's editor in it.

CHROMIUM names the browser, else the first of the usual names on the PATH is taken. Tests that import this are skipped
without Playwright.
"""

import contextlib
import os
import re
import shutil

import pytest

playwright = pytest.importorskip(
    "playwright.sync_api", reason="the editor is tested with Playwright: pip install playwright"
)

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium found: install one, or name it in CHROMIUM")

FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
UNREACHABLE = re.compile(
    r"https://(huggingface\.co|api\.comfy\.org)/"
)  # asked for file sizes and packs, and not there in a closed network
SECONDS = 1000
READY = "window.app?.extensionManager && window.app.graphToPrompt && window.app.rootGraph && window.LiteGraph"
UNKNOWN = "() => app.rootGraph.nodes.map(node => node.type).filter(type => !(type in LiteGraph.registered_node_types))"
"""Types of nodes in the open workflow that the editor does not know."""


@contextlib.contextmanager
def launched():
    """The browser, closed at the end."""
    with playwright.sync_playwright() as library:
        chromium = library.chromium.launch(executable_path=BROWSER, args=FLAGS.split())
        yield chromium
        chromium.close()


@contextlib.contextmanager
def closing_page(browser, **context):
    """A page of a fresh profile; at its end no error on its console may be about this pack."""
    with contextlib.closing(browser.new_context(**{"viewport": {"width": 1600, "height": 1000}, **context})) as profile:
        opened = profile.new_page()
        opened.set_default_timeout(60 * SECONDS)
        errors = []
        opened.on("pageerror", lambda error: errors.append(str(error)))
        opened.on(
            "console",
            lambda message: message.type == "error" and errors.append(f"{message.text} {message.location['url']}"),
        )
        yield opened
        assert [error for error in errors if "sana" in error.lower() and not UNREACHABLE.search(error)] == []


def open_editor(page, server, query=""):
    page.goto(f"http://127.0.0.1:{server.port}/{query}")
    page.wait_for_function(READY)
