"""The instruction that SANA puts before a prompt, and which of the resulting tokens the transformer sees.

SANA's "complex human instruction" (arXiv:2410.10629, sec. 2.3) is eight lines joined by newlines, the prompt follows
without a separator. Wordings:

- "default": upstream. The configurations of NVlabs/Sana (read: 1.6B of `configs/sana_config/1024ms`, 4.8B of
  `sana1-5_config`, 1.6B of `sana_sprint_config`, 0.6B of `sana_app_config`) hold the lines as single-quoted YAML with
  plain double quotes around "Enhanced prompt" and no backslashes. `app/sana_pipeline.py` joins them as they are: this
  is what reaches the tokenizer. ComfyUI's `comfy/text_encoders/pixeldit.py` has the same string, byte for byte.
- "diffusers": the default of diffusers' Sana pipelines, which differs in one thing: 'Enhanced prompt' stands in
  single quotes.

Nothing here imports PyTorch or transformers: any tokenizer with `encode` and `decode` will do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ..errors import InputError

MAX_LENGTH = 300
"""Tokens of a caption in training, BOS included."""
PAD_ID = 0
"""Of Gemma's padding token."""
QUOTED = 60  # characters of a text in a warning

_DEFAULT = (
    'Given a user prompt, generate an "Enhanced prompt" that provides detailed visual descriptions suitable for image '
    "generation. Evaluate the level of detail in the user prompt:\n"
    "- If the prompt is simple, focus on adding specifics about colors, shapes, sizes, textures, and spatial "
    "relationships to create vivid and concrete scenes.\n"
    "- If the prompt is already detailed, refine and enhance the existing details slightly without overcomplicating.\n"
    "Here are examples of how to transform or refine prompts:\n"
    "- User Prompt: A cat sleeping -> Enhanced: A small, fluffy white cat curled up in a round shape, sleeping "
    "peacefully on a warm sunny windowsill, surrounded by pots of blooming red flowers.\n"
    "- User Prompt: A busy city street -> Enhanced: A bustling city street scene at dusk, featuring glowing street "
    "lamps, a diverse crowd of people in colorful clothing, and a double-decker bus passing by towering glass "
    "skyscrapers.\n"
    "Please generate only the enhanced description for the prompt below and avoid including any additional commentary "
    "or evaluations:\n"
    "User Prompt: "
)

INSTRUCTIONS: dict[str, str] = {"default": _DEFAULT, "diffusers": _DEFAULT.replace('"', "'")}
"""Wordings by name."""


class Tokenizer(Protocol):
    """What is asked of a tokenizer here."""

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, BOS first, no EOS."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text that `ids` stand for, without BOS."""
        ...


@dataclass(frozen=True, kw_only=True)
class PromptTokens:
    """One prompt as the text encoder gets it.

    text: exactly what `ids` stand for: instruction and prompt, without what was cut off.
    ids: token ids, BOS first, then padding where it was asked for.
    kept: positions in `ids`, ascending, whose embeddings the transformer sees: BOS and the prompt, not the instruction.
    truncated: the end of the prompt was cut off.
    num_padding: number of padding tokens at the end of `ids`. They are kept, and no token attends to them.
    num_cut, cut: how many tokens were cut off, and their text.
    """

    text: str
    ids: list[int]
    kept: list[int]
    truncated: bool
    num_padding: int = 0
    num_cut: int = 0
    cut: str = ""

    def cut_warning(self) -> str | None:
        """One line that says which text the model does not see; None if it sees all."""
        if not self.truncated:
            return None
        tokens = "token was" if self.num_cut == 1 else f"{self.num_cut} tokens were"
        return (
            f"the prompt is too long: its last {tokens} cut off, from {self.cut.strip()[:QUOTED]!r} on; "
            f"SANA sees {len(self.kept)} tokens of it"
        )


def instruction_text(instruction: str | None) -> str:
    """The text before the prompt for None (nothing), "default", "diffusers", or an own text, which is used as it is."""
    return INSTRUCTIONS.get(instruction, instruction) if instruction else ""


def token_limit(num_instruction: int, max_length: int = MAX_LENGTH) -> int:
    """How many tokens of instruction + prompt go through the text encoder; the rest is cut off at the end.

    num_instruction: tokens of the instruction alone, BOS included; 0 without one. The 2 stands for BOS, which is
    counted twice, and for the instruction's last token: a trailing space, which the tokenizer usually merges with the
    first word of the prompt.
    """
    if max_length < 2:
        raise InputError(f"max_length is {max_length}, expected at least 2 (BOS and one token of the prompt)")
    return num_instruction + max_length - 2 if num_instruction else max_length


def kept_positions(num_tokens: int, num_instruction: int) -> list[int]:
    """Positions whose embeddings are kept, of `num_tokens` that are cut to `token_limit`: BOS and what follows the
    instruction.

    Upstream pads to `token_limit` on the right and takes position 0 and the last `max_length` - 1. Without padding
    these are the same positions.
    """
    return [0, *range(max(num_instruction - 1, 1), num_tokens)]


def prompt_tokens(
    tokenizer: Tokenizer,
    prompt: str,
    instruction: str | None = None,
    max_length: int = MAX_LENGTH,
    *,
    kept_length: int | None = None,
) -> PromptTokens:
    """Tokenize one prompt behind its instruction and choose the positions to keep. Instruction as in
    `instruction_text`.

    kept_length: keep exactly that many tokens, by cutting off or by padding. Upstream shows the transformer as many
    tokens of a negative prompt as of the positive one (`app/sana_pipeline.py` passes the positive prompt's mask for
    both), and the models were trained so.
    """
    prefix = instruction_text(instruction)
    num_instruction = len(tokenizer.encode(prefix)) if prefix else 0
    limit = token_limit(num_instruction, max_length if kept_length is None else max(kept_length, 2))
    text = prefix + prompt
    ids = tokenizer.encode(text)
    ids, cut = ids[:limit], ids[limit:]
    if cut:
        text = tokenizer.decode(ids)
    num_padding = max((kept_length or 0) - len(kept_positions(len(ids), num_instruction)), 0)
    ids = ids + [PAD_ID] * num_padding
    kept = kept_positions(len(ids), num_instruction)
    return PromptTokens(
        text=text,
        ids=ids,
        kept=kept,
        truncated=bool(cut),
        num_padding=num_padding,
        num_cut=len(cut),
        cut=tokenizer.decode([ids[0], *cut]) if cut else "",
    )
