"""Every template, as the editor sends it, through ComfyUI's queue."""

import numpy as np
from PIL import Image
from workflows.templates import each_template, load_prompt

SIZES = {"SANA-quick-start": (128, 128), "SANA-1.6B-text-to-image-1024": (1024, 1024)}


@each_template
def test_a_template_draws_a_picture_of_its_size(server, name):
    prompt = load_prompt(name)
    (save,) = [key for key, node in prompt.items() if node["class_type"] == "SaveImage"]
    (saved,) = server.run(prompt)[save]["images"]
    assert saved["filename"].startswith("SANA")
    picture = Image.open(server.base / saved["type"] / saved["subfolder"] / saved["filename"])
    assert picture.size == SIZES[name]
    assert np.asarray(picture).std() > 5  # of 255: something is drawn
