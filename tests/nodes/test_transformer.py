"""The transformer under ComfyUI's layers computes what sana_core computes, and other nodes can reach into it."""

import dataclasses

import pytest
import torch
from agreement import assert_agree
from comfy import memory_management, model_management, ops, patcher_extension
from safetensors.torch import load_file
from sana_pack.nodes.bridge import transformer
from sana_pack.sana_core.checkpoint import load as core

FILES = ["sana.safetensors", "sana15.safetensors", "sprint.safetensors"]


def build(path):
    """sana_core's model and the host's, with the same weights."""
    plain = core.load_transformer(path)
    hosted = transformer.ComfySana(
        config=plain.config, image_model="sana", dtype=torch.float32, operations=ops.manual_cast
    )
    hosted.load_state_dict(plain.state_dict())
    return plain, hosted


@pytest.fixture(scope="module")
def inputs():
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[1, 4:] = 0
    return {
        "x": torch.randn(2, 32, 5, 3, generator=generator),
        "timesteps": torch.tensor([749.0, 12.0]),
        "context": torch.randn(2, 9, 48, generator=generator),
        "attention_mask": mask,
    }


def expected(plain, inputs):
    guidance = torch.tensor([4.5, 4.5]) if plain.config.guidance_embed else None
    return plain(
        inputs["x"], inputs["timesteps"], inputs["context"], inputs["attention_mask"].bool(), guidance=guidance
    )


@pytest.mark.parametrize("name", FILES)
def test_forward(file, inputs, name):
    plain, hosted = build(file("diffusion_models", name))
    guidance = torch.tensor([4.5, 4.5]) if plain.config.guidance_embed else None
    assert_agree(hosted(**inputs, guidance=guidance), expected(plain, inputs), 1e-5)


@pytest.mark.parametrize("name, exact, seen", [
    ("sana.safetensors", False, 749.0),
    ("sana.safetensors", True, 749.6),
    ("sprint.safetensors", False, 749.6),
])  # fmt: skip
def test_timesteps_are_whole_except_for_sprint_and_euler(file, inputs, name, exact, seen):
    plain, hosted = build(file("diffusion_models", name))
    options = {transformer.EXACT_TIMESTEPS: True} if exact else {}
    guidance = torch.tensor([4.5, 4.5])
    given = {**inputs, "timesteps": torch.tensor([749.6, 749.6])}
    found = hosted(**given, guidance=guidance, transformer_options=options)
    wanted = {**inputs, "timesteps": torch.tensor([seen, seen])}
    assert_agree(found, expected(plain, wanted), 1e-5)


def test_wrappers_are_called_with_options_last(file, inputs):
    plain, hosted = build(file("diffusion_models", FILES[0]))
    seen = []

    def wrapper(executor, *args):
        seen.append(args[-1])
        return executor(*args) * 2

    options = {"wrappers": {patcher_extension.WrappersMP.DIFFUSION_MODEL: {"test": [wrapper]}}}
    assert_agree(hosted(**inputs, transformer_options=options), expected(plain, inputs) * 2, 1e-5)
    assert seen[0] is options


def test_blocks_can_be_replaced(file, inputs):
    plain, hosted = build(file("diffusion_models", FILES[0]))
    seen = []

    def through(args, extra):
        seen.append(
            (args["transformer_options"]["block_index"], args["img"].shape, args["txt"].shape, args["vec"].shape)
        )
        return extra["original_block"](args)

    def skip(args, extra):
        return args

    both = {("double_block", 0): through, ("double_block", 1): through}
    assert_agree(
        hosted(**inputs, transformer_options={"patches_replace": {"dit": both}}), expected(plain, inputs), 1e-5
    )
    assert [index for index, *_ in seen] == [0, 1]
    assert seen[0][1:] == ((2, 15, 224), (2, 9, 224), (2, 6, 224))
    skipped = hosted(**inputs, transformer_options={"patches_replace": {"dit": {("double_block", 1): skip}}})
    plain.config = dataclasses.replace(plain.config, depth=1)
    assert_agree(skipped, expected(plain, inputs), 1e-5)


def test_attention_can_be_overridden(file, inputs):
    plain, hosted = build(file("diffusion_models", FILES[0]))
    heads = []

    def override(function, *args, **kwargs):
        heads.append((args[3], kwargs["mask"].shape, kwargs["transformer_options"]["block_index"]))
        return function(*args, **kwargs)

    assert_agree(
        hosted(**inputs, transformer_options={"optimized_attention_override": override}), expected(plain, inputs), 1e-5
    )
    assert heads == [(2, (2, 1, 1, 9), 0), (2, (2, 1, 1, 9), 1)]


def test_only_scalars_are_written_into_the_options(file, inputs):
    hosted = build(file("diffusion_models", FILES[0]))[1]
    nested = {"dit": {}}
    options = {"patches_replace": nested}
    hosted(**inputs, transformer_options=options)
    assert {key: value for key, value in options.items() if key != "patches_replace"} == {
        "total_blocks": 2,
        "block_type": "double",
        "block_index": 1,
    }
    assert nested == {"dit": {}}


def test_construction_without_weights(monkeypatch, file):
    """Under dynamic VRAM the host makes layers without weights; loading assigns them, in the file's own type."""
    monkeypatch.setattr(memory_management, "aimdo_enabled", True)
    monkeypatch.setattr(model_management, "WINDOWS", True)  # where ComfyUI 0.28 does so
    plain = core.load_transformer(file("diffusion_models", FILES[0]))
    hosted = transformer.ComfySana(
        config=plain.config, image_model="sana", dtype=torch.bfloat16, operations=ops.manual_cast
    )
    assert hosted.proj_out.weight is None
    missing, unexpected = hosted.load_state_dict(plain.state_dict(), strict=False, assign=True)
    assert (missing, unexpected) == ([], [])
    assert hosted.proj_out.weight.dtype == torch.float32


def test_every_large_layer_is_the_hosts(file):
    """What the host streams to the GPU is what it made; all else is loaded whole, so it must be small."""
    hosted = build(file("diffusion_models", FILES[1]))[1]
    streamed = {name for name, module in hosted.named_modules() if hasattr(module, "comfy_cast_weights")}
    rest = {key for key in hosted.state_dict() if key.rpartition(".")[0] not in streamed}
    assert {key.rpartition(".")[2] for key in rest} == {"scale_shift_table"}
    assert load_file(file("diffusion_models", FILES[1])).keys() == hosted.state_dict().keys()
