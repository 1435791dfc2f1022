"""What is allowed but seldom meant is said in a line."""

import pytest
import tiny

from sana_core.cli import main
from sana_core.config import SamplingDefaults
from sana_core.pipeline import Request
from sana_core.pipeline.hints import hints


def found(size, native, prompt="x"):
    defaults = SamplingDefaults(width=native, height=native)
    run = Request(prompt, width=size[0], height=size[1]).resolve(defaults, tiny.transformer_config())
    return hints(run, defaults)


@pytest.mark.parametrize("native", [512, 1024, 2048, 4096])
def test_trained_sizes_are_fine(native):
    half = native // 1024 * 512 or 256
    for size in ((native, native), (half * 4, half), (native, native * 7 // 8 // 32 * 32)):
        assert found(size, native) == []


@pytest.mark.parametrize(
    ("size", "native", "better"),
    [
        ((512, 512), 256, "256x256"),
        ((128, 128), 256, "256x256"),
        ((384, 256), 256, "256x256"),
        ((512, 512), 1024, "1024x1024"),
        ((2048, 1152), 1024, "1344x768"),
        ((2048, 256), 1024, "2048x512"),
        ((1024, 1024), 4096, "4096x4096"),
    ],
)
def test_a_size_far_from_them_is_said(size, native, better):
    (hint,) = found(size, native)
    assert hint.startswith(f"{size[0]}x{size[1]} is far") and hint.endswith(f"--size {better}")


def test_the_embedded_model_at_another_size_and_without_a_prompt(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["", "--size", "512", "--steps", "1"]) == 0
    said = capsys.readouterr().err
    assert said.count("512x512 is far") == 1 and said.count("the prompt is empty") == 1
    assert main(["", "--size", "512", "--steps", "1", "--quiet"]) == 0 and capsys.readouterr().err == ""
