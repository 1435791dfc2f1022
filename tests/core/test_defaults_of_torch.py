"""The program around sana_core may have set PyTorch's default device or number type: that changes nothing of ours."""

import functools

import pytest
import torch
from PIL import Image

from sana_core import apply_lora, load_lora, load_pipeline
from sana_core.pictures.soft_edge import soft_edge
from sana_core.samplers.methods import SAMPLERS
from sana_core.sources import NANO

SETTINGS = {"width": 64, "height": 96, "steps": 2, "seed": 3, "output": "tensor"}
PICTURE = Image.linear_gradient("L").resize((64, 96)).convert("RGB")
MASK = Image.linear_gradient("L").resize((64, 96)).point(lambda level: 255 * (level > 128))


def draw(source="nano", prompt="a red apple", *, lora=None, settings=None, **loading):
    pipeline = load_pipeline(source, device="cpu", **loading)
    if lora is not None:
        apply_lora(pipeline.transformer, load_lora(lora))
    return pipeline(prompt, "blurry", **SETTINGS, **(settings or {}))


def edges():
    generator = torch.Generator().manual_seed(1)
    return soft_edge(torch.rand(1, 3, 32, 32, generator=generator, device="cpu", dtype=torch.float32))


TASKS = {
    "text to image": draw,
    "float16": lambda: draw(dtype=torch.float16),
    "Flow-Euler": lambda: draw(settings={"sampler": "flow_euler"}),
    "perturbed attention": lambda: draw(settings={"pag_scale": 2.0}),
    "Sprint": lambda: draw("nano-sprint"),
    "offload": lambda: draw(offload=True),
    "image to image": lambda: draw(settings={"image": PICTURE, "strength": 0.5}),
    "inpaint": lambda: draw(settings={"image": PICTURE, "mask": MASK}),
    "inpaint with Sprint": lambda: draw("nano-sprint", settings={"image": PICTURE, "mask": MASK}),
    "upstream's unconditional mask": lambda: draw(settings={"negative_mask": "positive"}),
    "ControlNet": lambda: draw(
        controlnet=NANO / "controlnet" / "sana_nano_controlnet.safetensors", settings={"control_image": PICTURE}
    ),
    "LoRA": lambda: draw(lora=NANO / "loras" / "sana_nano_style.safetensors"),
    "soft edges": edges,
    **{f"grid of {name}": lambda method=method: method.sigmas(7, 3.0) for name, method in SAMPLERS.items()},
}


@functools.cache
def usual(name):
    """What a task gives without unusual defaults."""
    return TASKS[name]()


@pytest.fixture
def restored():
    dtype = torch.get_default_dtype()
    yield
    torch.set_default_device(None)
    torch.set_default_dtype(dtype)


@pytest.mark.parametrize("name", TASKS)
def test_default_device(restored, name):
    expected = usual(name)
    torch.set_default_device("meta")
    found = TASKS[name]()
    torch.set_default_device(None)
    assert found.device.type == "cpu" and torch.equal(found, expected)


@pytest.mark.parametrize("name", TASKS)
def test_default_dtype(restored, name):
    expected = usual(name)
    torch.set_default_dtype(torch.float64)
    found = TASKS[name]()
    assert found.dtype == expected.dtype and torch.equal(found, expected)
