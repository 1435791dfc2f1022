"""ComfyUI's own tests of its model detection pass with the pack loaded."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from e2e import comfyui

TESTS = Path(__file__).parents[1]


def test_model_detection_tests_pass_with_the_pack():
    folder = comfyui.folder()
    file = folder / "tests-unit" / "comfy_test" / "model_detection_test.py"
    if not file.is_file():
        pytest.skip("this ComfyUI came without its unit tests")
    arguments = [
        "-q",
        "-p",
        "e2e.in_process",
        "--rootdir",
        folder / "tests-unit",
        "-c",
        os.devnull,
        "-p",
        "no:cacheprovider",
        file,
    ]
    run = subprocess.run([sys.executable, "-m", "pytest", *arguments], cwd=TESTS, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-3000:]
    assert " passed" in run.stdout
