"""What a PNG that Save Image writes says of how it was drawn."""

import pytest
from e2e.server import Graph
from PIL import Image


def drawn(server, node="SaveImage", **settings):
    graph = Graph()
    loaded = graph.add(
        "SanaNativeLoad", model="sana_nano.safetensors", text_encoder="sana_nano_text.safetensors",
        vae="sana_nano_vae.safetensors", native_size="auto", weight_dtype="default",
    )  # fmt: skip
    inputs = {"width": 0, "height": 0, "seed": 5, "steps": 0, "cfg": 0.0, "denoise": 1.0, **settings}
    latent = graph.add(
        "SanaNativeGenerate", model=loaded, clip=loaded[1], prompt="a red äpple", negative_prompt="blur", **inputs
    )
    decoded = graph.add("VAEDecode", samples=latent, vae=loaded[2])
    save = graph.add(node, images=decoded, **({"filename_prefix": "p"} if node == "SaveImage" else {}))
    return Image.open(server.files(graph, save)[0])


def test_readers_of_a1111_find_prompt_and_settings(server):
    picture = drawn(server)
    assert picture.text["parameters"] == (
        "a red äpple\nNegative prompt: blur\nSteps: 20, Sampler: flow_dpm, CFG scale: 3.0, Seed: 5, Size: 256x256, "
        "Model: sana_nano, Shift: 2.5"
    )
    assert {"prompt"} <= picture.text.keys()
    assert picture.convert("RGB").size == (256, 256)


@pytest.mark.parametrize(
    "chosen", [{"steps": 4, "cfg": 2.0}, {"sampling": "own", "sampling__steps": 4, "sampling__cfg": 2.0}]
)
def test_chosen_settings_are_those_that_are_written(server, chosen):
    text = drawn(server, **chosen).text["parameters"]
    assert "Steps: 4, Sampler: flow_dpm, CFG scale: 2.0" in text


def test_a_size_by_aspect_ratio(server):
    assert "Size: 352x192" in drawn(server, steps=2, size="aspect ratio", size__ratio="16:9").text["parameters"]


def test_a_preview_that_is_saved_by_hand_says_so_too(server):
    assert "Steps: 2," in drawn(server, node="PreviewImage", steps=2).text["parameters"]


def test_other_pictures_stay_as_they_are(server):
    graph = Graph()
    empty = graph.add("EmptyImage", width=64, height=64, batch_size=1, color=0)
    save = graph.add("SaveImage", images=empty, filename_prefix="p")
    assert "parameters" not in Image.open(server.files(graph, save)[0]).text
