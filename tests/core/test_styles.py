"""The ten styles of NVIDIA's demo, and requests in them."""

import hashlib
import json

import pytest
import tiny

from sana_core import Request
from sana_core.config import SamplingDefaults
from sana_core.errors import InputError
from sana_core.pictures.files import parameters_text
from sana_core.styles import NO_STYLE, STYLES, style_name, styled


@pytest.mark.parametrize("name", ["none", "No Style", "(no style)"])
def test_no_style_has_other_names(name):
    assert style_name(name) == NO_STYLE


def test_they_are_upstreams():
    """The hash is that of `style_list` in app/app_sana.py, as lists of name, prompt and negative prompt."""
    found = [[name, *templates] for name, templates in STYLES.items()]
    assert len(found) == 10
    assert (
        hashlib.sha256(json.dumps(found).encode()).hexdigest()
        == "c79a0546a5970df81ad10326f83563e3e5da7d13297a291121b0641eed05dff2"
    )


@pytest.mark.parametrize("style", [None, NO_STYLE, "(no style)"])
def test_no_style_changes_nothing(style):
    assert styled(" a {prompt} cat", "blurry", style) == (" a {prompt} cat", "blurry")


def test_they_are_joined_as_upstream_joins_them():
    assert styled("a {prompt} cat", "blurry", "manga") == (
        "manga style a {prompt} cat . vibrant, high-energy, detailed, iconic, Japanese comic style",
        "ugly, deformed, noisy, blurry, low contrast, realism, photorealistic, Western comic styleblurry",
    )


@pytest.mark.parametrize(
    "name, found", [("pixel art", "Pixel art"), (" DIGITAL ART ", "Digital Art"), ("3d model", "3D Model")]
)
def test_names_in_any_case(name, found):
    assert style_name(name) == found


def test_an_unknown_name_lists_all():
    with pytest.raises(InputError, match='there is no style "oil"') as error:
        style_name("oil")
    assert all(name in str(error.value) for name in STYLES)


def resolved(request):
    return request.resolve(SamplingDefaults(), tiny.transformer_config())


def test_a_request_in_a_style():
    request = Request(["a cat", "a dog"], negative_prompt="x", style="pixel ART", seed=1).checked()
    assert (request.style, request.prompt) == ("Pixel art", ("a cat", "a dog"))
    run = resolved(request)
    pairs = [styled(prompt, "x", "Pixel art") for prompt in ("a cat", "a dog")]
    assert list(zip(run.prompt, run.negative_prompt)) == pairs
    again = resolved(run.changed(seed=2))  # the words are there once
    assert (again.prompt, again.negative_prompt) == (run.prompt, run.negative_prompt)
    assert resolved(Request("a cat", style=NO_STYLE)).prompt == ("a cat",)


@pytest.mark.parametrize("style, said", [("oil", "there is no style"), (3, "style is 3, expected a text")])
def test_a_request_with_no_such_style(style, said):
    with pytest.raises(InputError, match=said):
        Request("a cat", style=style).checked()


def test_other_programs_read_the_words_of_the_style():
    record = dict.fromkeys(("steps", "sampler", "guidance_scale", "seed", "width", "height", "model", "shift"), 1)
    record |= {"batch_size": 1, "prompt": "a cat", "negative_prompt": "", "style": "Anime"}
    first, second, _ = parameters_text(record).splitlines()
    assert (first, second) == (
        "anime artwork a cat . anime style, key visual, vibrant, studio anime,  highly detailed",
        "Negative prompt: photo, deformed, black and white, realism, disfigured, low contrast",
    )
