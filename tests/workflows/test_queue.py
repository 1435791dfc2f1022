"""Every template, as the editor sends it, through ComfyUI's queue."""

import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from workflows.templates import each_template, load_prompt

ROOT = Path(__file__).parents[2]
SIZES = {  # of the others: 1024 x 1024
    **{f"SANA-quick-start{addon}": (256, 256) for addon in ("", "-Sprint", "-ControlNet", "-LoRA")},
    "SANA-train-LoRA": (256, 256),
    "SANA-1.6B-text-to-image-2K": (2048, 2048),
    "SANA-1.6B-text-to-image-4K": (4096, 4096),
    "SANA-on-6-GB": (2048, 2048),
    "SANA-Sprint-image-to-image": (1184, 896),  # about a million pixels of a picture of 128 x 96
    "SANA-image-to-image": (1184, 896),
    "SANA-inpaint": (1184, 896),
    "SANA-outpaint": (1696, 896),
}
FEW_STEPS = 2  # of 20, so that 2048 and 4096 px take seconds on a CPU


@each_template
def test_a_template_draws_a_picture_of_its_size(server, name):
    prompt = load_prompt(name)
    for node in prompt.values():
        if "sampling.steps" in node["inputs"]:
            node["inputs"]["sampling.steps"] = FEW_STEPS
        if node["class_type"] == "SanaNativeTrainLora":
            node["inputs"]["steps"] = FEW_STEPS
    (save,) = [key for key, node in prompt.items() if node["class_type"] == "SaveImage"]
    (saved,) = server.run(prompt)[save]["images"]
    assert saved["filename"].startswith("SANA")
    picture = Image.open(server.base / saved["type"] / saved["subfolder"] / saved["filename"])
    assert picture.size == SIZES.get(name, (1024, 1024))
    assert np.asarray(picture).std() > 5  # of 255: something is drawn


def test_the_quick_start_and_the_command_line_draw_the_same(server, tmp_path):
    """Twenty prompts in English, Chinese and emoji, one seed. Nearly the same pixels: layers and attention are the
    host's own here.
    """
    file = ROOT / "tools" / "nano" / "prompts.txt"
    command = [
        sys.executable,
        "-m",
        "sana_core",
        "--prompt-file",
        file,
        "--seed",
        "1",
        "--device",
        "cpu",
        "--quiet",
        "-o",
        tmp_path / "p.png",
    ]
    subprocess.run(command, cwd=ROOT, check=True)
    drawn = sorted(tmp_path.glob("p-*.png"))
    prompts = file.read_text("utf-8").splitlines()
    assert len(drawn) == len(prompts) == 20
    for prompt, path in zip(prompts, drawn):
        graph = load_prompt("SANA-quick-start")
        (generate,) = [node for node in graph.values() if node["class_type"] == "SanaNativeGenerate"]
        (save,) = [key for key, node in graph.items() if node["class_type"] == "SaveImage"]
        generate["inputs"].update(prompt=prompt, seed=1)
        (saved,) = server.run(graph)[save]["images"]
        pictures = [Image.open(server.base / saved["type"] / saved["subfolder"] / saved["filename"]), Image.open(path)]
        ours, theirs = (np.asarray(picture).astype(int) for picture in pictures)
        assert np.abs(ours - theirs).max() <= 1, prompt  # the host cuts off where the other rounds
