"""Stock nodes around the pack's CLIP: CLIP Set Last Layer, and what is said of a prompt that is too long."""

import logging
import re

import pytest
import torch
from agreement import assert_agree, error
from sana_pack.nodes.bridge import loading, sampling
from sana_pack.sana_core.pipeline import Request

import nodes as comfy_nodes

LONG = "a white cat " * 400


def encode(clip, text="a red apple"):
    return comfy_nodes.CLIPTextEncode().encode(clip, text)[0][0][0]


def set_last_layer(clip, layer):
    return comfy_nodes.CLIPSetLastLayer().set_last_layer(clip, layer)[0]


# --- CLIP Set Last Layer


def test_the_last_layer_is_no_change(clip):
    assert torch.equal(encode(set_last_layer(clip, -1)), encode(clip))
    assert torch.equal(encode(set_last_layer(set_last_layer(clip, -2), -1)), encode(clip))


def test_further_layers_come_without_the_final_norm(clip):
    """As in the host's other language models: the states after that block."""
    gemma, seen = clip.cond_stage_model.gemma2_2b.transformer.model, []
    hook = gemma.layers[-2].register_forward_hook(lambda module, inputs, output: seen.append(output[0].clone()))
    try:
        found = encode(set_last_layer(clip, -2))
    finally:
        hook.remove()
    assert_agree(found[:, 1:], seen[0][:, 1 - found.shape[1] :].to(found), 1e-6)
    assert error(found, encode(clip)) > 0.1


@pytest.mark.parametrize("layer", [-1, -2, -24])
def test_the_next_prompt_is_read_as_before(clip, layer):
    expected = encode(clip)
    encode(set_last_layer(clip, layer))
    assert torch.equal(encode(clip), expected)
    options = clip.cond_stage_model.gemma2_2b
    clip.cond_stage_model.set_clip_options({"layer": -2})
    clip.cond_stage_model.set_clip_options({"layer": -1})
    clip.cond_stage_model.set_clip_options({"execution_device": torch.device("cpu")})
    assert (options.layer, options.layer_idx) == ("last", None)
    clip.cond_stage_model.reset_clip_options()
    assert (options.layer, options.layer_idx, options.execution_device) == ("last", None, None)


def test_a_layer_that_is_not_there_is_the_last_one(clip):
    assert torch.equal(encode(set_last_layer(clip, -24)), encode(clip))


# --- prompts longer than 300 tokens


def said(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "sana"]


@pytest.mark.parametrize("run", [
    lambda clip: comfy_nodes.CLIPTextEncode().encode(clip, LONG),
    lambda clip: sampling.encode_prompt(clip, LONG, "default"),
    lambda clip: sampling.encode_prompt(clip, LONG, None),
    lambda clip: sampling.encode_prompt(clip, LONG, "Draw this: "),
    lambda clip: clip.encode_from_tokens(clip.tokenize(LONG, return_word_ids=True)),
], ids=["CLIP Text Encode", "upstream", "none", "own", "another pack"])  # fmt: skip
def test_a_prompt_that_is_cut_off_is_said_once(clip, caplog, run):
    with caplog.at_level(logging.WARNING, logger="sana"):
        run(clip)
    (line,) = said(caplog)
    numbers = re.search(r"too long: its last (\d+) tokens were cut off, from .* on; SANA sees (\d+) tokens of it", line)
    cut, seen = map(int, numbers.groups())
    assert "a white cat" in line and seen == 300
    assert abs(cut + seen - len(clip.tokenizer.pieces.encode(LONG))) <= 2  # where the instruction ends is rounded


def test_the_number_of_tokens_cut_off_is_right(clip, caplog):
    pieces = clip.tokenizer.pieces
    with caplog.at_level(logging.WARNING, logger="sana"):
        comfy_nodes.CLIPTextEncode().encode(clip, LONG)
        kept = sampling.encode_prompt(clip, LONG, None)[1].partition("\n\n[")[0]
    whole = len(pieces.encode(LONG))
    assert f"last {whole - 300} tokens" in said(caplog)[1] and whole - len(pieces.encode(kept)) == whole - 300


def test_both_prompts_of_generate(clip, caplog, file):
    model = loading.load_model(file("diffusion_models", "sana.safetensors"))
    request = Request(LONG, negative_prompt="b" + LONG, seed=0, width=32, height=32, steps=1)
    with caplog.at_level(logging.WARNING, logger="sana"):
        sampling.generate(model, clip, request)
    assert len([line for line in said(caplog) if "too long" in line]) == 2


def test_a_negative_prompt_cut_to_the_positive_one(clip, caplog):
    positive, _ = sampling.encode_prompt(clip, "a red apple", "default")
    with caplog.at_level(logging.WARNING, logger="sana"):
        sampling.encode_prompt(clip, "", None, positive)
        assert not said(caplog)
        sampling.encode_prompt(clip, "a white cat " * 20, None, positive)
    (line,) = said(caplog)
    assert line.endswith(f"SANA sees {positive[0][0].shape[1]} tokens of it")


def test_a_prompt_that_fits_is_not_spoken_of(clip, caplog):
    with caplog.at_level(logging.INFO, logger="sana"):
        for text in ("", "a red apple", "a white cat " * 20):
            comfy_nodes.CLIPTextEncode().encode(clip, text)
    assert not said(caplog)
