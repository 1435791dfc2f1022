"""Configurations refuse values that no network can have, before anything is built of them."""

import math
from dataclasses import replace

import pytest

from sana_core.config import PositionConfig, TextConfig
from sana_core.errors import InputError
from sana_core.presets import BASE_16

WRONG_SIZES = (0, -4, 4.0, "64", None, True, math.nan, math.inf, 10**7, 10**400, [1])
SIZES = ("hidden_size", "num_heads", "num_cross_heads", "ffn_size", "caption_channels", "latent_channels", "depth")
TEXT_SIZES = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim",
              "query_pre_attn_scalar", "vocab_size", "num_hidden_layers")  # fmt: skip


@pytest.mark.parametrize("value", WRONG_SIZES, ids=repr)
@pytest.mark.parametrize("name", SIZES)
def test_sizes_of_a_transformer(name, value):
    with pytest.raises(InputError, match=f"{name} is"):
        replace(BASE_16, **{name: value})


@pytest.mark.parametrize("value", [1, 0, "true", None, 1.0], ids=repr)
@pytest.mark.parametrize("name", ["qk_norm", "guidance_embed", "fp16_trained"])
def test_switches_of_a_transformer(name, value):
    if (name, value) == ("fp16_trained", None):  # not known
        assert replace(BASE_16, fp16_trained=None).fp16_trained is None
        return
    with pytest.raises(InputError, match=f"{name} is"):
        replace(BASE_16, **{name: value})


def test_a_depth_that_takes_minutes_to_build():
    with pytest.raises(InputError, match="depth is 1001"):
        replace(BASE_16, depth=1001)


@pytest.mark.parametrize("value", [*(v for v in WRONG_SIZES if v != 4.0), {"base_size": 64}], ids=repr)
def test_positions(value):
    if value not in (10**7, True):
        with pytest.raises(InputError, match="base_size is"):
            PositionConfig(base_size=value, interpolation=1.0)
    if value is not None:
        with pytest.raises(InputError, match="interpolation is"):
            PositionConfig(base_size=64, interpolation=value)
        with pytest.raises(InputError, match="position is"):
            replace(BASE_16, position=value)


@pytest.mark.parametrize("value", WRONG_SIZES, ids=repr)
@pytest.mark.parametrize("name", TEXT_SIZES)
def test_sizes_of_a_text_encoder(name, value):
    if (name, value) == ("num_hidden_layers", 0):  # a network of its buffers alone
        assert TextConfig(num_hidden_layers=0)
        return
    with pytest.raises(InputError, match=f"{name} is"):
        replace(TextConfig(), **{name: value})


@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf, "50", None, True], ids=repr)
def test_the_soft_cap(value):
    with pytest.raises(InputError, match="attn_logit_softcapping is"):
        TextConfig(attn_logit_softcapping=value)


def test_heads_that_do_not_fit_together():
    for wrong in ({"num_attention_heads": 7}, {"num_key_value_heads": 3}, {"head_dim": 255}):
        with pytest.raises(InputError, match="do not fit together"):
            TextConfig(**wrong)
