"""Prompts."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..sana_core.errors import InputError
from ..sana_core.pipeline import checks
from .bridge.links import check_links
from .bridge.sampling import encode_prompt

INSTRUCTIONS = {"upstream": "default", "diffusers": "diffusers", "none": None}
OWN = "own text"


class SanaNativeTextEncode(io.ComfyNode):
    """A prompt with or without SANA's instruction."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SanaNativeTextEncode",
            display_name="SANA Text Encode",
            category="SANA/conditioning",
            description="Encodes a prompt with Gemma-2. SANA was trained with an instruction before each prompt. "
            "Choose none for a negative prompt.",
            search_aliases=["sana prompt", "chi", "complex human instruction", "gemma encode", "clip text encode"],
            inputs=[
                io.Clip.Input("clip", tooltip="Gemma-2 from Load SANA or Load SANA Text Encoder (Gemma)."),
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="The prompt. Write sentences. Parentheses are ordinary text: Gemma knows no prompt "
                    "weights.",
                ),
                io.Combo.Input(
                    "instruction",
                    options=[*INSTRUCTIONS, OWN],
                    default="upstream",
                    tooltip="Text before the prompt. upstream: the wording of NVIDIA's code. diffusers: the same with "
                    "other quotation marks. none: for negative prompts. own text: what you connect to own_instruction.",
                ),
                io.Boolean.Input(
                    "lowercase",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Lower-cases the prompt and removes spaces around it, as diffusers does. Words drawn in "
                    "the picture then lose their capitals.",
                ),
                io.String.Input(
                    "own_instruction",
                    optional=True,
                    force_input=True,
                    tooltip="Your own text before the prompt, used if instruction is own text.",
                ),
                io.Conditioning.Input(
                    "positive",
                    optional=True,
                    tooltip="Optional, for negative prompts: connect the positive prompt to give both the same "
                    "length, as NVIDIA's code does. Leave empty to behave like diffusers.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(tooltip="The encoded prompt, for any sampler or guider."),
                io.String.Output(
                    display_name="sent to Gemma",
                    tooltip="The exact text that Gemma read, and its number of tokens. Connect Preview as Text to see "
                    "it.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        clip: Any,
        text: str,
        instruction: str,
        lowercase: bool = False,
        own_instruction: str | None = None,
        positive: list | None = None,
    ) -> io.NodeOutput:
        check_links(clip=clip, positive=positive)
        text = checks.text("text", text)
        if instruction == OWN and not own_instruction:
            raise InputError(
                'instruction is "own text" but own_instruction is empty: connect a text to it, or choose none'
            )
        chosen = own_instruction if instruction == OWN else INSTRUCTIONS[instruction]
        return io.NodeOutput(*encode_prompt(clip, text.lower().strip() if lowercase else text, chosen, positive))
