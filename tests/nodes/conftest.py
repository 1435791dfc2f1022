"""Tests of the pack inside ComfyUI in this process (as `sana_pack`), and of nodes called directly.

Run with a Python that has ComfyUI's requirements. Where there is no ComfyUI no file here is imported, so that all may
import ComfyUI and `sana_pack` at their top; each counts as skipped, and the last line of the run says so.
"""

import os
from pathlib import Path

import pytest
import torch
from e2e import comfyui, in_process, tiny_files
from e2e.graphs import NEGATIVE, PROMPT

USED = in_process.possible()
if USED:
    in_process.start()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter):
    yield
    terminalreporter.write_line(comfyui.summary("tests/nodes", USED))


class Absent(pytest.Module):
    """A file of tests without the ComfyUI that it needs."""

    def collect(self):
        pytest.skip(comfyui.REASON)


def pytest_pycollect_makemodule(module_path, parent):
    return None if USED else Absent.from_parent(parent, path=module_path)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    """With ComfyUI here, a file that skips itself as a whole has lost a module: that is a failure."""
    report = yield
    if USED and report.skipped:
        report.outcome = "failed"
    return report


@pytest.fixture(autouse=True)
def inference_mode():
    """ComfyUI executes its nodes without gradients."""
    with torch.inference_mode():
        yield


@pytest.fixture(autouse=True)
def user_folder(tmp_path_factory):
    """What the pack learns of autoencoders stays out of the user's own folder, and of the next test."""
    if not USED:
        yield
        return
    import folder_paths
    from sana_pack.nodes.bridge import previews

    before = folder_paths.get_user_directory()
    folder_paths.set_user_directory(str(tmp_path_factory.mktemp("user")))
    previews.learnt.forget()
    yield
    folder_paths.set_user_directory(before)


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Folder of tiny model files, as in ComfyUI's models/."""
    return tiny_files.write_all(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def file(models):
    """Path of a tiny model by kind and name."""
    return lambda kind, name: str(models / kind / name)


@pytest.fixture(scope="session")
def clip(file):
    from sana_pack.nodes.bridge.text_encoder import load_text_encoder

    return load_text_encoder(file("text_encoders", "gemma.safetensors"))


@pytest.fixture(scope="session")
def conditioning(clip):
    """Of PROMPT, with SANA's instruction before it, and of NEGATIVE."""
    from sana_pack.nodes.bridge.sampling import encode_prompt

    return encode_prompt(clip, PROMPT, "default")[0], encode_prompt(clip, NEGATIVE, None)[0]


@pytest.fixture(scope="session")
def oracle():
    """Folder with the oracle's `fix` and `ref.safetensors`, where SANA_ORACLE_CACHE names one."""
    folder = Path(os.environ.get("SANA_ORACLE_CACHE", ""))
    if not (folder / "ref.safetensors").is_file():
        pytest.skip("no oracle outputs: set SANA_ORACLE_CACHE to the folder that the parity tests keep them in")
    return folder
