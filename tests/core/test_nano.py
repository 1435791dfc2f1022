"""The embedded model and its add-ons as shipped: what their files state, what the tokenizer does to a prompt, what they
draw.
"""

import json

import pytest
import torch

from sana_core.checkpoint.files import read_checkpoint
from sana_core.checkpoint.load import load_controlnet
from sana_core.lora import apply_lora, load_lora
from sana_core.pipeline import load_pipeline
from sana_core.sources import NANO, NANO_FILES
from sana_core.text.instruction import INSTRUCTIONS, prompt_tokens

FILES = (NANO_FILES.transformer, NANO_FILES.autoencoder, NANO_FILES.text_encoder)
CONTROLNET = NANO / "controlnet" / "sana_nano_controlnet.safetensors"
LORAS = [NANO / "loras" / f"sana_nano_{name}.safetensors" for name in ("style", "subject")]
SIDE = 256
ADDONS = (NANO / "diffusion_models" / "sana_nano_sprint.safetensors", CONTROLNET, *LORAS)


@pytest.fixture(scope="module")
def nano():
    return load_pipeline("nano", device="cpu")


@pytest.fixture(scope="module")
def tokenizer(nano):
    return nano.text_encoder.tokenizer


def draw(nano, prompts, **settings):
    """(B, 3, SIDE, SIDE) in 0..1."""
    return nano(prompts, seed=0, output="tensor", **settings)


def test_files_are_float16_and_small():
    headers = [read_checkpoint(file, "meta") for file in (*FILES, *ADDONS)]
    types = {tensor.dtype for header in headers for key, tensor in header.tensors.items() if key != "spiece_model"}
    assert types == {torch.float16}
    assert sum(file.stat().st_size for file in FILES) < 20_500_000
    assert sum(file.stat().st_size for file in ADDONS) < 16_000_000


def test_files_state_their_configuration(nano):
    stated = [json.loads(read_checkpoint(file, "meta").metadata["config"]) for file in FILES]
    transformer, vae, text = stated
    assert nano.transformer.config.hidden_size == transformer["hidden_size"] == 224
    assert [stage.channels for stage in nano.autoencoder.config.encoder] == [
        stage["channels"] for stage in vae["encoder"]
    ]
    assert nano.text_encoder.config.num_attention_heads == text["num_attention_heads"] == 3
    assert nano.transformer.config.caption_channels == text["hidden_size"]


def test_draws_256_pixels_unless_told_otherwise(nano):
    assert (nano.defaults.width, nano.defaults.height, nano.defaults.sampler) == (SIDE, SIDE, "flow_dpm")


def test_licences_lie_beside_the_weights():
    assert {"LICENSE-Apache-2.0.txt", "LICENSE-MIT.txt", "LICENSE-Unicode-3.0.txt", "NOTICE", "README.md"} <= {
        path.name for path in NANO.iterdir()
    }


@pytest.mark.parametrize("wording", INSTRUCTIONS)
def test_instruction_costs_ten_tokens_and_leaves_the_prompt(tokenizer, wording):
    assert len(tokenizer.encode(INSTRUCTIONS[wording])) == 10
    tokens = prompt_tokens(tokenizer, "a red apple", wording)
    assert tokens.text == INSTRUCTIONS[wording] + "a red apple" == tokenizer.decode(tokens.ids)
    kept = [tokenizer.decode([tokens.ids[position]]) for position in tokens.kept[1:]]
    assert tokens.kept[0] == 0 and kept == [" a", " red", " apple"]


@pytest.mark.parametrize(
    "text", ["a red apple", "\u7ea2\u82f9\u679c", "\U0001f353", "two  spaces\nand a line", "Zürich \u6f22"]
)
def test_tokenizer_keeps_every_text(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.slow
def test_prompts_in_three_languages_draw_the_same_thing(nano):
    english, chinese, emoji, other = draw(nano, ["a red apple", "\u7ea2\u82f9\u679c", "\U0001f34e", "a blue whale"])
    for picture in (chinese, emoji):
        assert (picture - english).abs().mean() < 0.75 * (other - english).abs().mean()


def test_colours_are_those_of_the_prompt(nano):
    apple, green, tree, banana = draw(
        nano, ["a red apple", "a green apple", "an evergreen tree", "a banana on a blue background"]
    )
    centre = (slice(None), slice(96, 176), slice(96, 176))
    assert apple[centre].mean((1, 2)).argmax() == 0  # red
    assert green[centre].mean((1, 2)).argmax() == tree[centre].mean((1, 2)).argmax() == 1  # green
    red, _, blue = banana[:, :20, :20].mean((1, 2))
    assert blue > red + 0.2
    assert apple[:, :8, :8].mean() > 0.9  # on white where nothing is said


@pytest.mark.slow
def test_the_prompt_decides_not_the_seed(nano):
    prompts = ["a red apple", "a penguin"]
    first, second = (nano(prompts, seed=seed, output="tensor") for seed in (1, 2))
    same, other = (first - second).square().mean(), (first - second.flip(0)).square().mean()
    assert same < 0.7 * other


@pytest.mark.slow
def test_float_types_agree(nano):
    reference = draw(nano, ["a sunflower", "a rocket"])
    for dtype in (torch.bfloat16, torch.float16):
        found = draw(load_pipeline("nano", device="cpu", dtype=dtype), ["a sunflower", "a rocket"])
        assert (found - reference).abs().mean() < 0.02, dtype


@pytest.mark.slow
def test_sprint_draws_the_same_things_in_two_steps(nano):
    prompts = ["a red apple", "a penguin", "a sunflower", "a rocket"]
    sprint = load_pipeline("nano-sprint", device="cpu")
    assert (sprint.defaults.steps, sprint.defaults.sampler, sprint.defaults.width) == (2, "scm", SIDE)
    wanted, found = draw(nano, prompts), draw(sprint, prompts)
    distance = (found[:, None] - wanted[None]).square().mean((2, 3, 4))  # of each picture to each
    assert distance.argmin(dim=1).tolist() == [0, 1, 2, 3]


def lines_found(drawn, lines):
    """Change between neighbouring pixels on the given lines, relative to that of the whole picture."""
    change = drawn.diff(dim=-1)[..., :-1, :].abs().amax(1, keepdim=True) + drawn.diff(dim=-2)[..., :-1].abs().amax(
        1, keepdim=True
    )
    near = torch.nn.functional.max_pool2d(change, 5, stride=1, padding=2)
    on_lines = lines[:, :1, :-1, :-1] > 0.5
    return near[on_lines].mean() / near.mean()


@pytest.mark.slow
def test_the_controlnet_follows_lines(nano):
    """A ring at the left, of which the prompt says nothing."""
    x, y = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="xy")
    radius = ((x - 68).square() + (y - 128).square()).float().sqrt()
    lines = ((radius - 54).abs() < 1.5).float().expand(1, 3, -1, -1)
    controlled = load_pipeline("nano", device="cpu", controlnet=CONTROLNET)
    follows, ignores = (
        draw(controlled, ["a cookie"], control_image=lines, control_scale=scale) for scale in (1.0, 0.0)
    )
    assert torch.equal(ignores, draw(nano, ["a cookie"]))
    assert lines_found(follows, lines) > 1.5 * lines_found(ignores, lines)
    assert follows[..., 168:].mean() > 0.9  # white on the right


def test_the_controlnet_has_the_released_structure():
    network = load_controlnet(CONTROLNET)
    assert network.order == "upstream" and len(network.transformer_blocks) == 2


@pytest.mark.slow
@pytest.mark.parametrize("file", LORAS, ids=lambda file: file.stem)
def test_a_lora_changes_what_it_should(nano, file):
    """Its own prompts much more than others; strength 0 nothing."""
    asked = {
        "style": ["a cat, monochrome", "a rocket, monochrome"],
        "subject": ["a zorble", "a zorble on a pink background"],
    }
    own_prompts, other_prompts = asked[file.stem.removeprefix("sana_nano_")], ["a red apple", "a sunflower"]
    for strength in (0.0, 1.0):
        pipeline = load_pipeline("nano", device="cpu")
        assert not apply_lora(pipeline.transformer, load_lora(file), strength).unmatched
        own, others = (
            (draw(pipeline, prompts) - draw(nano, prompts)).abs().mean() for prompts in (own_prompts, other_prompts)
        )
        assert own > 1.5 * others and own > 0.03 if strength else own == others == 0
