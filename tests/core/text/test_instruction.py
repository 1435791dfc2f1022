"""The instruction's wordings and the token window, against upstream's padded formulation."""

import hashlib

import pytest

from sana_core.errors import InputError
from sana_core.text.instruction import INSTRUCTIONS, instruction_text, kept_positions, prompt_tokens, token_limit

BOS, PAD = 2, 0


class Letters:
    """One token per character; two characters can be one token, so that an instruction and a prompt can merge."""

    def __init__(self, *merged):
        self.merged = merged

    def encode(self, text):
        for index, pair in enumerate(self.merged):
            text = text.replace(pair, chr(0xE000 + index))
        return [BOS, *map(ord, text)]

    def decode(self, ids):
        text = "".join(map(chr, ids[1:]))
        for index, pair in enumerate(self.merged):
            text = text.replace(chr(0xE000 + index), pair)
        return text


def upstream_window(ids, num_instruction, max_length):
    """Positions that upstream selects: pad to the limit, take the first and the last max_length - 1."""
    limit = num_instruction + max_length - 2
    padded = (ids + [PAD] * limit)[:limit]
    positions = list(range(limit))
    selected = [positions[i] for i in [0, *range(-max_length + 1, 0)]]
    return [i for i in selected if i < len(ids)], padded


def test_wordings():
    default, diffusers = INSTRUCTIONS["default"], INSTRUCTIONS["diffusers"]
    assert (
        hashlib.sha256(default.encode()).hexdigest()
        == "62b9ab89eebb0ac5ee4d264bf96bf19d2b81f504bc3852500efeaf5a34d638b1"
    )
    assert default.count("\n") == 7
    assert default.endswith("\nUser Prompt: ")
    assert 'an "Enhanced prompt" that' in default
    assert "an 'Enhanced prompt' that" in diffusers
    assert diffusers == default.replace('"', "'")


@pytest.mark.parametrize(
    "instruction, text", [(None, ""), ("", ""), ("default", INSTRUCTIONS["default"]), ("Draw: ", "Draw: ")]
)
def test_instruction_text(instruction, text):
    assert instruction_text(instruction) == text


@pytest.mark.parametrize("max_length", [2, 3, 10, 300])
@pytest.mark.parametrize("num_instruction", [2, 3, 40])
@pytest.mark.parametrize("num_prompt", [0, 1, 2, 9, 10, 11, 400])
def test_window_is_upstreams(num_instruction, num_prompt, max_length):
    instruction, prompt = "i" * (num_instruction - 1), "p" * num_prompt
    tokens = prompt_tokens(Letters(), prompt, instruction, max_length)
    full = Letters().encode(instruction + prompt)
    kept, padded = upstream_window(full, num_instruction, max_length)
    assert tokens.ids == padded[: len(tokens.ids)]
    assert tokens.kept == kept
    assert len(tokens.kept) <= max_length
    assert tokens.truncated == (len(full) > len(padded))
    assert Letters().encode(tokens.text) == tokens.ids


def test_the_window_starts_at_the_instructions_last_token():
    """A trailing space that merges with the prompt's first letter is the first kept token; one that does not merge is
    kept by itself.
    """
    merging = prompt_tokens(Letters(" a"), "a cat", "say: ")
    assert merging.kept == [0, 5, 6, 7, 8, 9]
    assert len(merging.ids) == 10
    separate = prompt_tokens(Letters(" a"), "cat", "say: ")
    assert separate.kept == [0, 5, 6, 7, 8]
    assert chr(separate.ids[5]) == " "


def test_without_instruction():
    tokens = prompt_tokens(Letters(), "A Cat ", None, 300)
    assert tokens.text == "A Cat "
    assert tokens.ids == [BOS, *map(ord, "A Cat ")]
    assert tokens.kept == list(range(7))
    assert not tokens.truncated


def test_without_instruction_the_limit_is_max_length():
    tokens = prompt_tokens(Letters(), "x" * 299 + "y", None, 300)
    assert len(tokens.ids) == len(tokens.kept) == 300
    assert tokens.text == "x" * 299
    assert tokens.truncated
    assert not prompt_tokens(Letters(), "x" * 299, None, 300).truncated


def test_empty_prompt():
    assert prompt_tokens(Letters(), "").kept == [0]
    tokens = prompt_tokens(Letters(), "", "say: ")
    assert tokens.text == "say: "
    assert tokens.kept == [0, 5]


def test_numbers_of_the_released_models():
    """208 tokens of instruction, 300 of caption: 506 go through Gemma, 0 and 207 to 505 are kept."""
    assert token_limit(208) == 506
    assert kept_positions(506, 208) == [0, *range(207, 506)]
    assert token_limit(0) == 300


@pytest.mark.parametrize("instruction", [None, "say: "])
@pytest.mark.parametrize("over", [0, 1, 7])
def test_what_was_cut_off_is_told(instruction, over):
    tokens = prompt_tokens(Letters(" a"), "x" * 9 + "abcdefg"[:over], instruction, 10 if instruction is None else 11)
    assert (tokens.num_cut, tokens.cut) == (over, "abcdefg"[:over]) and tokens.truncated == (over > 0)
    warning = tokens.cut_warning()
    if not over:
        assert warning is None
    else:
        tokens_were = f"{over} tokens were" if over > 1 else "token was"
        assert f"its last {tokens_were} cut off, from '{tokens.cut}' on" in warning


def test_a_long_rest_is_quoted_in_short_and_without_control_characters():
    warning = prompt_tokens(Letters(), "a" * 4 + "\x1b\n\u732b" * 1000, None, 5).cut_warning()
    assert "its last 3000 tokens were cut off, from '\\x1b\\n\u732b" in warning
    assert len(warning) < 500 and warning.isprintable()


@pytest.mark.parametrize("max_length", [1, 0, -5])
def test_too_short_a_window(max_length):
    with pytest.raises(InputError, match=rf"max_length is {max_length}, expected at least 2"):
        prompt_tokens(Letters(), "a", None, max_length)
