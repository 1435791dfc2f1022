"""Prompts."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .bridge.sampling import encode_prompt

INSTRUCTIONS = {"upstream": "default", "diffusers": "diffusers", "none": None}
OWN = "own text"


class SanaNativeTextEncode(io.ComfyNode):
    """A prompt with or without SANA's instruction."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        own = io.String.Input("own_instruction", multiline=True, tooltip="Text before the prompt, in place of the released one.")
        return io.Schema(
            node_id="SanaNativeTextEncode",
            display_name="SANA Text Encode",
            category="SANA",
            description="Encodes a prompt with Gemma-2. SANA was trained with an instruction before each prompt; "
            "leave it out for a negative prompt.",
            search_aliases=["sana prompt", "chi", "complex human instruction", "gemma encode", "clip text encode"],
            inputs=[
                io.Clip.Input("clip", tooltip="Gemma-2 from Load SANA or Load SANA Text Encoder."),
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="The prompt. Parentheses are ordinary text here: Gemma reads prose, not prompt weights.",
                ),
                io.DynamicCombo.Input(
                    "instruction",
                    options=[*(io.DynamicCombo.Option(name, []) for name in INSTRUCTIONS), io.DynamicCombo.Option(OWN, [own])],
                    tooltip="What stands before the prompt. upstream: the wording of the released code. diffusers: the same with other "
                    "quotation marks. none: for negative prompts.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(tooltip="The encoded prompt, for any sampler or guider."),
                io.String.Output(
                    display_name="sent to Gemma",
                    tooltip="The exact text that Gemma read, with its token count; show it with Preview as Text.",
                ),
            ],
        )

    @classmethod
    def execute(cls, clip: Any, text: str, instruction: dict[str, str]) -> io.NodeOutput:
        choice = instruction["instruction"]
        chosen = instruction["own_instruction"] if choice == OWN else INSTRUCTIONS[choice]
        return io.NodeOutput(*encode_prompt(clip, text, chosen))
