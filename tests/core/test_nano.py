"""The embedded model as shipped: what its files state, what its tokenizer does to a prompt, what it draws."""

import json

import pytest
import torch

from sana_core.checkpoint.files import read_checkpoint
from sana_core.pipeline import load_pipeline
from sana_core.sources import NANO, NANO_FILES
from sana_core.text.instruction import INSTRUCTIONS, prompt_tokens

FILES = (NANO_FILES.transformer, NANO_FILES.autoencoder, NANO_FILES.text_encoder)


@pytest.fixture(scope="module")
def nano():
    return load_pipeline("nano", device="cpu")


@pytest.fixture(scope="module")
def tokenizer(nano):
    return nano.text_encoder.tokenizer


def draw(nano, prompts, **settings):
    """(B, 3, 128, 128) in 0..1."""
    return nano(prompts, seed=0, output="tensor", **settings)


def test_files_are_float16_and_small():
    headers = [read_checkpoint(file, "meta") for file in FILES]
    types = {tensor.dtype for header in headers for key, tensor in header.tensors.items() if key != "spiece_model"}
    assert types == {torch.float16}
    assert sum(file.stat().st_size for file in FILES) < 20_500_000


def test_files_state_their_configuration(nano):
    stated = [json.loads(read_checkpoint(file, "meta").metadata["config"]) for file in FILES]
    transformer, vae, text = stated
    assert nano.transformer.config.hidden_size == transformer["hidden_size"] == 224
    assert [stage.channels for stage in nano.autoencoder.config.encoder] == [stage["channels"] for stage in vae["encoder"]]
    assert nano.text_encoder.config.num_attention_heads == text["num_attention_heads"] == 3
    assert nano.transformer.config.caption_channels == text["hidden_size"]


def test_draws_128_pixels_unless_told_otherwise(nano):
    assert (nano.defaults.width, nano.defaults.height, nano.defaults.sampler) == (128, 128, "flow_dpm")


def test_licences_lie_beside_the_weights():
    assert {"LICENSE-Apache-2.0.txt", "LICENSE-Unicode-3.0.txt", "NOTICE", "README.md"} <= {path.name for path in NANO.iterdir()}


@pytest.mark.parametrize("wording", INSTRUCTIONS)
def test_instruction_costs_ten_tokens_and_leaves_the_prompt(tokenizer, wording):
    assert len(tokenizer.encode(INSTRUCTIONS[wording])) == 10
    tokens = prompt_tokens(tokenizer, "a red apple", wording)
    assert tokens.text == INSTRUCTIONS[wording] + "a red apple" == tokenizer.decode(tokens.ids)
    kept = [tokenizer.decode([tokens.ids[position]]) for position in tokens.kept[1:]]
    assert tokens.kept[0] == 0 and kept == [" a", " red", " apple"]


@pytest.mark.parametrize("text", ["a red apple", "\u7ea2\u82f9\u679c", "\U0001f353", "two  spaces\nand a line", "Zürich \u6f22"])
def test_tokenizer_keeps_every_text(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_prompts_in_three_languages_draw_the_same_thing(nano):
    english, chinese, emoji, other = draw(nano, ["a red apple", "\u7ea2\u82f9\u679c", "\U0001f34e", "a blue whale"])
    for picture in (chinese, emoji):
        assert (picture - english).abs().mean() < 0.75 * (other - english).abs().mean()


def test_colours_are_those_of_the_prompt(nano):
    apple, green, tree, banana = draw(nano, ["a red apple", "a green apple", "an evergreen tree", "a banana on a blue background"])
    centre = (slice(None), slice(48, 88), slice(48, 88))
    assert apple[centre].mean((1, 2)).argmax() == 0  # red
    assert green[centre].mean((1, 2)).argmax() == tree[centre].mean((1, 2)).argmax() == 1  # green
    red, _, blue = banana[:, :10, :10].mean((1, 2))
    assert blue > red + 0.2
    assert apple[:, :4, :4].mean() > 0.9  # on white where nothing is said


def test_the_prompt_decides_not_the_seed(nano):
    prompts = ["a red apple", "a penguin"]
    first, second = (nano(prompts, seed=seed, output="tensor") for seed in (1, 2))
    same, other = (first - second).square().mean(), (first - second.flip(0)).square().mean()
    assert same < 0.7 * other


def test_float_types_agree(nano):
    reference = draw(nano, ["a sunflower", "a rocket"])
    for dtype in (torch.bfloat16, torch.float16):
        found = draw(load_pipeline("nano", device="cpu", dtype=dtype), ["a sunflower", "a rocket"])
        assert (found - reference).abs().mean() < 0.02, dtype
