"""One real ComfyUI server for all tests of this folder, with the pack and tiny models; skipped where there is no
ComfyUI.
"""

from pathlib import Path

import pytest
from e2e import comfyui, tiny_files
from e2e.server import Server
from workflows.installed import serve


@pytest.fixture(scope="session")
def runnable():
    """(folder, interpreter) of ComfyUI."""
    return comfyui.runnable() or pytest.skip(comfyui.ABSENT)


@pytest.fixture(scope="session")
def comfyui_folder(runnable):
    return runnable[0]


@pytest.fixture(scope="session")
def server(runnable, tmp_path_factory):
    base = tmp_path_factory.mktemp("comfyui")
    tiny_files.write_all(base / "models")
    tiny_files.write_picture(base / "input")
    server = Server(*runnable, base, extra_packs=[Path(__file__).parent / "tensors_pack"])
    yield server
    server.stop()


@pytest.fixture(scope="module")
def packaged(tmp_path_factory):
    """A server with the pack under its registry's name and tiny models under the names in the templates."""
    with serve(tmp_path_factory.mktemp("comfyui")) as running:
        yield running


@pytest.fixture(scope="module")
def browser(runnable):
    """Chromium, for tests that are skipped where it is not."""
    from e2e.browser import launched  # needs Playwright

    with launched() as chromium:
        yield chromium


def pytest_collection_modifyitems(items):
    """A test that needs a server is slow: starting one takes longer than all quick tests of a folder."""
    for item in items:
        if {"server", "packaged"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter):
    yield
    terminalreporter.write_line(comfyui.summary("tests/e2e"))
